"""Experiment files: TOML in, a validated :class:`Experiment` out, before anything starts."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import tomli_w

from atoll.clients.settings import ClientSettings, DataSettings, ModelSettings, Section
from atoll.errors import InvalidExperimentError
from atoll.files import reading
from atoll.platform.config.consistency import problems_of
from atoll.platform.config.privacy.audit_settings import AuditSettings
from atoll.platform.config.privacy.settings import PrivacySettings
from atoll.platform.config.sections import (
    CaptureSettings,
    LayersSettings,
    LogSettings,
    PoisonSettings,
    RaySettings,
    RunSettings,
    StrategySettings,
)
from atoll.platform.config.unlearning.settings import UnlearnSettings
from atoll.user_code.main_module import with_references
from atoll.validation import validated

# Tables that a run directory's config.toml has beside the experiment.
ADDED_TABLES = ("versions",)
# The table that makes an experiment file a sweep.
SWEEP = "sweep"
# The table that makes it an arena.
ARENA = "arena"


class Experiment(Section):
    """An experiment: every key has a value, and the values fit together.

    Attributes
    ----------
    run, data, model, client, strategy, ray, log
        The sections of an experiment file; each has defaults.
    layers, capture, poison, privacy, audit, unlearn
        Optional sections; None if the file does not have them.

    Examples
    --------
    >>> from atoll import Experiment
    >>> experiment = Experiment.from_dict({"data": {"dataset": "digits"}, "run": {"rounds": 3}})
    >>> experiment.data.clients, experiment.strategy.name
    (100, 'FedAvg')
    """

    run: RunSettings = RunSettings()
    data: DataSettings = DataSettings()
    model: ModelSettings = ModelSettings()
    client: ClientSettings = ClientSettings()
    strategy: StrategySettings = StrategySettings()
    layers: LayersSettings | None = None
    ray: RaySettings = RaySettings()
    log: LogSettings = LogSettings()
    capture: CaptureSettings | None = None
    poison: PoisonSettings | None = None
    privacy: PrivacySettings | None = None
    audit: AuditSettings | None = None
    unlearn: UnlearnSettings | None = None

    @classmethod
    def from_dict(cls, tables: Mapping[str, Any]) -> Experiment:
        """Validate an experiment given as nested dicts.

        Where a key takes ``module:attribute``, a class or function may stand itself; a script's
        or a notebook's own are sent to the workers.

        Raises
        ------
        InvalidExperimentError
            With a line per problem: the key, the value, and what was expected.
        """
        experiment = validated(cls, with_references(tables))
        problems = problems_of(experiment)
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
        A TOML file; a relative ``data.path`` (``data.options.test_path``, ``unlearn.run``) in it is
        relative to the file.
    overrides : Sequence[str]
        ``section.key=value``, the value as in TOML or a bare word; they win over the file.

    Raises
    ------
    InvalidExperimentError
        If the file cannot be read or the experiment cannot be run.

    Examples
    --------
    >>> from pathlib import Path
    >>> from tempfile import TemporaryDirectory
    >>> from atoll import load_experiment
    >>> with TemporaryDirectory() as folder:
    ...     path = Path(folder) / "experiment.toml"
    ...     _ = path.write_text("data.dataset = 'digits'")
    ...     experiment = load_experiment(path, ["run.rounds=5"])
    >>> experiment.run.rounds
    5
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
    """Return an experiment file's tables, relative paths of data resolved."""
    tables = read_toml(path)
    for name in ADDED_TABLES:
        tables.pop(name, None)
    data = tables.get("data")
    options = data.get("options") if isinstance(data, dict) else None
    for table, key in ((data, "path"), (options, "test_path"), (tables.get("unlearn"), "run")):
        if isinstance(table, dict) and isinstance(table.get(key), str):
            table[key] = str((path.parent / Path(table[key]).expanduser()).resolve())
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
        if parts in (["data", "path"], ["unlearn", "run"]) and isinstance(value, str):
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


def _without_none(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_none(item) for key, item in value.items() if item is not None}
    if isinstance(value, list):
        return [_without_none(item) for item in value if item is not None]
    return value
