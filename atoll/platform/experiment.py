"""Experiment files: TOML in, a validated :class:`Experiment` out, before anything starts."""

from __future__ import annotations

import math
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import tomli_w
from pydantic import ConfigDict, Field, ValidationError

from atoll import reading
from atoll.clients.noprop.settings import is_noprop
from atoll.clients.settings import (
    ClientSettings,
    DataSettings,
    FilePath,
    ModelSettings,
    PositiveInt,
    Section,
)
from atoll.errors import InvalidExperimentError
from atoll.platform.validation import describe_problems

# A worker is a process: what is beyond these is a mistake. Ray itself counts shares in
# ten-thousandths, and several GPUs as whole ones.
MAX_WORKERS, SMALLEST_SHARE = 10_000, 0.01
# Of Flower's strategies: least, most, and how that is said.
STRATEGY_RANGES = {
    "fraction_train": (0.0, 1.0, "a number from 0 to 1"),
    "fraction_evaluate": (0.0, 1.0, "a number from 0 to 1"),
    "proximal_mu": (0.0, math.inf, "a number of at least 0"),
}
# Tables that a run directory's config.toml has beside the experiment.
ADDED_TABLES = ("versions",)
# The table that makes an experiment file a sweep.
SWEEP = "sweep"
# The table that makes it an arena.
ARENA = "arena"


class EarlyStoppingSettings(Section):
    """``[run.early_stopping]``: stop when a metric no longer improves, or is good enough."""

    metric: str = "server_accuracy"
    mode: Literal["max", "min"] = "max"
    patience: PositiveInt | None = None
    min_delta: Annotated[float, Field(ge=0.0)] = 0.0
    target: float | None = None


class RunSettings(Section):
    """``[run]``: the run as a whole."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", max_length=200)] = (
        "federation"
    )
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
    rounds: PositiveInt = 10
    round_timeout: Annotated[float, Field(gt=0.0)] | None = None
    evaluate_every: PositiveInt = 1
    checkpoint_every: PositiveInt = 5
    keep_checkpoints: PositiveInt = 2
    out: FilePath = Path("runs")
    early_stopping: EarlyStoppingSettings | None = None


class StrategySettings(Section):
    """``[strategy]``: a Flower strategy by name; other keys are its keyword arguments."""

    model_config = ConfigDict(extra="allow", frozen=True, strict=True)

    name: str = "FedAvg"
    reduce: Literal["auto"] | bool = "auto"
    check_replies: Literal["auto"] | bool = "auto"

    @property
    def arguments(self) -> dict[str, Any]:
        """The strategy's own keyword arguments."""
        return dict(self.model_extra or {})


# Seconds: nodes of a cloud are set up in minutes.
NODES_TIMEOUT = 900.0


class RaySettings(Section):
    """``[ray]``: the cluster and the workers.

    Attributes
    ----------
    gpus_per_worker : float or "auto"
        The share of a GPU that a worker takes. "auto" is none where the cluster has no GPU; else
        as many workers work on a GPU as fit into its memory, by what the first one needs.
    nodes_timeout : float
        Seconds to wait, at the start, for nodes that the cluster's autoscaler brings, if those
        that are there hold no worker.
    """

    address: str | None = None
    workers: Literal["auto"] | Annotated[int, Field(ge=1, le=MAX_WORKERS)] = "auto"
    cpus_per_worker: Annotated[float, Field(ge=SMALLEST_SHARE)] = 1.0
    gpus_per_worker: Literal["auto"] | Annotated[float, Field(ge=0.0)] = "auto"
    threads_per_worker: PositiveInt = 1
    chunk_size: Literal["auto"] | PositiveInt = "auto"
    nodes_timeout: Annotated[float, Field(gt=0.0)] = NODES_TIMEOUT


class LayersSettings(Section):
    """``[layers]``: train a NoProp network's blocks where the data are, each by itself.

    Its presence makes the experiment a layer run: a round is an epoch of every part, and there is
    no ``[strategy]``.

    Attributes
    ----------
    baselines : tuple[str, ...]
        What is trained beside the blocks, to compare with.
    inference : "process", "features" or "pipeline"
        How evaluation goes through the blocks: a worker has them all; workers compute what each
        block needs of the images, and then one has the rest; or the latents go from one worker to
        the next. All give the same bits.
    """

    baselines: Annotated[tuple[Literal["chain", "cnn", "ensemble"], ...], Field(strict=False)] = ()
    inference: Literal["process", "features", "pipeline"] = "process"


class LogSettings(Section):
    """``[log]``: what is shown and written beside the ledger.

    ``mlflow`` is true (the server that ``MLFLOW_TRACKING_URI`` names) or a tracking URI.
    """

    level: Literal["debug", "info", "warning", "error"] = "info"
    progress: bool = True
    tensorboard: bool = False
    mlflow: bool | str = False


class CaptureSettings(Section):
    """``[capture]``: whose messages are recorded, and in which rounds; nodes are 1 to clients."""

    nodes: Literal["all"] | Annotated[tuple[PositiveInt, ...], Field(strict=False, min_length=1)]
    rounds: Annotated[tuple[PositiveInt, ...], Field(strict=False, min_length=1)]


class Experiment(Section):
    """An experiment: every key has a value, and the values fit together."""

    run: RunSettings = RunSettings()
    data: DataSettings = DataSettings()
    model: ModelSettings = ModelSettings()
    client: ClientSettings = ClientSettings()
    strategy: StrategySettings = StrategySettings()
    layers: LayersSettings | None = None
    ray: RaySettings = RaySettings()
    log: LogSettings = LogSettings()
    capture: CaptureSettings | None = None

    @classmethod
    def from_dict(cls, tables: Mapping[str, Any]) -> Experiment:
        """Validate an experiment given as nested dicts.

        Raises
        ------
        InvalidExperimentError
            With a line per problem: the key, the value, and what was expected.
        """
        try:
            experiment = cls.model_validate(dict(tables))
        except ValidationError as error:
            raise InvalidExperimentError(describe_problems(error, cls)) from None
        problems = _impossible(experiment)
        if problems:
            raise InvalidExperimentError("\n".join(problems))
        return experiment

    def to_dict(self) -> dict[str, Any]:
        """Return the experiment as TOML can hold it; keys that are not set are left out."""
        dumped: dict[str, Any] = self.model_dump(mode="json", exclude_none=True)
        without: dict[str, Any] = _without_none(dumped)
        return without

    def to_toml(self) -> str:
        """Return the experiment as TOML, every default spelled out."""
        return tomli_w.dumps(self.to_dict())


def load_experiment(path: Path, overrides: Sequence[str] = ()) -> Experiment:
    """Read an experiment file.

    Parameters
    ----------
    path : Path
        A TOML file; a relative ``data.path`` in it is relative to the file.
    overrides : Sequence[str]
        ``section.key=value``, the value as in TOML or a bare word; they win over the file.

    Raises
    ------
    InvalidExperimentError
        If the file cannot be read or the experiment cannot be run.
    """
    tables = read_tables(path)
    for section in (SWEEP, ARENA):
        if section in tables:
            raise InvalidExperimentError(
                f"{path}: has a section [{section}]; expected 'atoll {section} {path}', or a file "
                "without"
            )
    return Experiment.from_dict(with_overrides(tables, overrides))


def read_tables(path: Path) -> dict[str, Any]:
    """Return an experiment file's tables, a relative ``data.path`` resolved."""
    tables = read_toml(path)
    for name in ADDED_TABLES:
        tables.pop(name, None)
    data = tables.get("data")
    if isinstance(data, dict) and isinstance(data.get("path"), str):
        data["path"] = str((path.parent / Path(data["path"]).expanduser()).resolve())
    return tables


def read_toml(path: Path) -> dict[str, Any]:
    """Return the tables of a TOML file, or say in one line why it cannot be read."""
    if path.is_dir():
        raise InvalidExperimentError(f"{path}: is a folder; expected an experiment file")
    if not path.exists():
        raise InvalidExperimentError(f"{path}: no such file; expected an experiment file")
    return reading.read_toml(path, error=InvalidExperimentError)


def with_overrides(tables: Mapping[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    """Return ``tables`` with ``section.key=value`` settings put in.

    Raises
    ------
    InvalidExperimentError
        If an override is not of that form.
    """
    changed = {name: dict(t) if isinstance(t, dict) else t for name, t in tables.items()}
    for override in overrides:
        key, separator, text = override.partition("=")
        parts = [part.strip() for part in key.split(".")]
        if not separator or len(parts) < 2 or not all(parts):
            raise InvalidExperimentError(
                f"--set {override!r}: expected section.key=value, client.learning_rate=0.1 say"
            )
        table = changed
        for depth, part in enumerate(parts[:-1]):
            inner = table.get(part, {})
            if not isinstance(inner, dict):
                raise InvalidExperimentError(
                    f"--set {override!r}: {'.'.join(parts[: depth + 1])} is not a section"
                )
            table[part] = dict(inner)
            table = table[part]
        value = parse_value(text.strip())
        if parts == ["data", "path"] and isinstance(value, str):
            # As relative paths in a file are to the file, those on the command line are to here.
            value = str(Path(value).expanduser().absolute())
        table[parts[-1]] = value
    return changed


def parse_value(text: str) -> Any:
    """Return the value that a text is in TOML, or the text itself."""
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except (tomllib.TOMLDecodeError, KeyError, ValueError, RecursionError):
        return text


def _impossible(experiment: Experiment) -> list[str]:
    """Return what cannot be, although each key is in order."""
    problems = []
    client, data, strategy = experiment.client, experiment.data, experiment.strategy
    if client.epochs is not None and client.steps is not None:
        problems.append(
            f"client.steps = {client.steps}: client.epochs = {client.epochs} is set too; "
            "expected one of the two"
        )
    if client.vectorize is True and client.mods:
        problems.append(
            "client.vectorize = True: client.mods see one client at a time; expected 'auto' or "
            "false"
        )
    at_most_all = ["min_train_nodes", "min_evaluate_nodes", "min_available_nodes", "cohort"]
    if strategy.name == "FedBuff":
        at_most_all.append("buffer_size")
    for key in at_most_all:
        value = strategy.arguments.get(key)
        if isinstance(value, int) and value > data.clients:
            problems.append(
                f"strategy.{key} = {value}: there are only data.clients = {data.clients}; "
                "expected at most as many"
            )
    problems += _out_of_range("strategy", strategy.arguments)
    gpus = experiment.ray.gpus_per_worker
    if gpus != "auto" and (0.0 < gpus < SMALLEST_SHARE or (gpus > 1.0 and gpus % 1.0)):
        problems.append(
            f"ray.gpus_per_worker = {gpus:g}: expected 0, a share from {SMALLEST_SHARE} to 1, or "
            "whole GPUs"
        )
    if experiment.layers is not None:
        problems += _impossible_in_a_layer_run(experiment, experiment.layers)
    stopping = experiment.run.early_stopping
    if stopping is not None and stopping.patience is None and stopping.target is None:
        problems.append("run.early_stopping: expected patience or target to be set")
    if experiment.capture is not None:
        problems += _cannot_be_captured(experiment.capture, data.clients, experiment.run.rounds)
    if data.dataset == "folder" and data.path is None:
        problems.append(
            "data.path is not set; expected a folder of images for data.dataset = 'folder'"
        )
    return problems


def _out_of_range(key: str, arguments: Mapping[str, Any]) -> list[str]:
    """Return what is wrong with numbers that Flower's strategies take without a look."""
    problems = []
    for name, (least, most, expected) in STRATEGY_RANGES.items():
        value = arguments.get(name)
        if isinstance(value, int | float) and not least <= value <= most:
            problems.append(f"{key}.{name} = {value}: expected {expected}")
    inner = arguments.get("strategy")
    if isinstance(inner, Mapping):
        problems += _out_of_range(f"{key}.strategy", inner)
    return problems


def _cannot_be_captured(capture: CaptureSettings, clients: int, rounds: int) -> list[str]:
    problems = []
    nodes = () if capture.nodes == "all" else capture.nodes
    for key, values, last, name in (
        ("nodes", nodes, clients, "data.clients"),
        ("rounds", capture.rounds, rounds, "run.rounds"),
    ):
        beyond = [value for value in values if value > last]
        if beyond:
            problems.append(
                f"capture.{key} = {list(values)}: there is no {beyond[0]} (with {name} = {last}); "
                f"expected numbers from 1 to {last}"
            )
    return problems


def _impossible_in_a_layer_run(experiment: Experiment, layers: LayersSettings) -> list[str]:
    """Return what cannot be in an experiment with ``[layers]``."""
    problems = []
    model, client = experiment.model, experiment.client
    if not is_noprop(model):
        problems.append(
            f"model.name = {model.name!r}: its layers cannot be trained apart; expected "
            "'noprop-dt', 'noprop-ct' or 'noprop-fm' with [layers]"
        )
    if experiment.strategy != StrategySettings():
        problems.append(
            f"strategy.name = {experiment.strategy.name!r}: with [layers] there is no federation; "
            "expected one of the two sections"
        )
    if experiment.data.clients != 1:
        problems.append(
            f"data.clients = {experiment.data.clients}: with [layers] all data are in one place; "
            "expected 1"
        )
    for key in ("proximal_mu", "mods", "memory_mb"):
        value = getattr(client, key)
        if value:
            shown = list(value) if isinstance(value, tuple) else value
            problems.append(
                f"client.{key} = {shown}: is of a federation; expected none with [layers]"
            )
    if experiment.capture is not None:
        problems.append(
            "capture: with [layers] no client sends anything; expected one of the two sections"
        )
    if is_noprop(model) and "ensemble" in layers.baselines and model.name.casefold() != "noprop-dt":
        problems.append(
            "layers.baselines has 'ensemble': it is of as many first blocks as NoProp-DT has "
            f"blocks; expected 'chain' and 'cnn' with model.name = {model.name!r}"
        )
    return problems


def _without_none(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_none(item) for key, item in value.items() if item is not None}
    if isinstance(value, list):
        return [_without_none(item) for item in value if item is not None]
    return value
