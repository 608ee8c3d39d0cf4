"""``atoll attack``: an attack on the captures of a run, its table, rows and picture."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

import torch

from atoll.attacks.base.adaptive import mimic_of
from atoll.attacks.base.attack import Attack, Progress, ignore_progress
from atoll.attacks.base.attack_building import build_attack
from atoll.attacks.captures.capture import Capture
from atoll.attacks.captures.capture_files import RAW_CLIENT_DATA, find_captures
from atoll.attacks.metrics.kinds import METRICS, NOUNS, TITLES, kind_of
from atoll.attacks.metrics.lpips import LPIPS
from atoll.attacks.metrics.picture import save_picture
from atoll.attacks.threat.victim_model import BatchNormMode
from atoll.attacks.victims import (
    Attacked,
    References,
    Victim,
    attack_victims,
    examples_of,
    observe_victims,
    read_victims,
    references_of,
)
from atoll.clients.data.catalog.loading import load_dataset
from atoll.clients.data.client_statistics import fitted
from atoll.clients.data.files.dataset import Dataset
from atoll.clients.data.inputs.images import ImageInputs
from atoll.errors import AttackError, CaptureError, DataUnavailableError
from atoll.files.atomic import replacing, write_json
from atoll.platform.attack_runs.attack_rows import write_rows
from atoll.platform.attack_runs.reconstructed_cells import reconstructed_cells
from atoll.platform.config.experiment import parse_value
from atoll.platform.config.unlearning.problems import never_clients
from atoll.platform.reports import tables as reports
from atoll.platform.reports.attack_report import PAGE, names_label, write_attack_report
from atoll.platform.run_directory.run_config import load_run_config
from atoll.platform.run_directory.run_files import CONFIG, check_run_directory, read_config
from atoll.platform.runs.session import new_run_directory
from atoll.user_code.trust import Ask, CodeUse, admitted, references_in, refuse, uses_in

logger = logging.getLogger("atoll")

ATTACKS_FOLDER = "attacks"
ROWS, PICTURE, ABOUT = "rows.parquet", "pictures.png", "attack.json"
# What is written in the place of a picture where examples are no images.
CELLS = "reconstructions.parquet"


@dataclass(frozen=True)
class AttackRun:
    """Result of an attack on a run's captures.

    Attributes
    ----------
    directory : Path
        Has ``rows.parquet``, ``attack.json``, and of images ``pictures.png`` and ``attack.html``,
        of rows of a table and tokens ``reconstructions.parquet``.
    attacked : list[Attacked]
        One a victim.

    Examples
    --------
    >>> from pathlib import Path
    >>> from atoll import AttackRun
    >>> from atoll.attacks import ATTACKS, attack_victims, example_victim, observe_victims
    >>> attack, victims = ATTACKS.find("linear-layer", "attack")(), [example_victim()]
    >>> observations = observe_victims(victims, attack)
    >>> others = example_victim(examples=20, seed=1).truth.images
    >>> attacked = attack_victims("mine", attack, victims, observations, candidates=others)
    >>> AttackRun(Path("run/attacks/mine"), attacked).means()["identified"]
    1.0
    """

    directory: Path
    attacked: list[Attacked]

    @property
    def rows(self) -> list[dict[str, Any]]:
        """One an example."""
        return [row for attacked in self.attacked for row in attacked.rows]

    def means(self) -> dict[str, float | None]:
        """Return the mean of each figure over all examples; None where it was not measured."""
        rows = self.rows
        names = [name for name in METRICS if name in rows[0]]
        return {name: _mean([row[name] for row in rows]) for name in names}


def plain_table_of(result: AttackRun) -> reports.Table:
    """Return the metrics of an attack: mean, worst and best over all examples."""
    first = result.rows[0]
    rows: list[list[reports.Cell]] = []
    # Of an attack that names no labels there is no share that is right.
    left_out = () if any(map(names_label, result.rows)) else ("label_accuracy",)
    for name in (name for name in result.means() if name not in left_out):
        values = [float(row[name]) for row in result.rows if row[name] is not None]
        if values:
            rows.append([TITLES[name], fmean(values), min(values), max(values)])
    return reports.Table(
        title_of(result),
        ["metric", "mean", "least", "most"],
        rows,
        f"{first['threat']}; labels {first['label_source']}",
    )


def title_of(result: AttackRun) -> str:
    """Return which attack it was, on how many examples of how many updates."""
    rows = result.rows
    noun = NOUNS[kind_of(rows[0])]
    return f"{rows[0]['attack']} on {len(rows)} {noun} of {len(result.attacked)} updates"


def parse_settings(overrides: Sequence[str]) -> dict[str, Any]:
    """Return ``KEY=VALUE`` settings of an attack, values as in TOML or bare words.

    Raises
    ------
    AttackError
        If one is not of that form.
    """
    settings = {}
    for override in overrides:
        key, separator, text = override.partition("=")
        if not separator or not key.strip():
            raise AttackError(f"--set {override!r}: expected KEY=VALUE, steps=1000 say")
        settings[key.strip()] = parse_value(text.strip())
    return settings


def choose_captures(run_directory: Path, victims: Sequence[str]) -> list[Path]:
    """Return the captures of ``ROUND:NODE`` victims, or all of a run's.

    Raises
    ------
    CaptureError
        If one is not there, or not of that form.
    """
    found = find_captures(run_directory)
    if not victims:
        return found
    by_name = {_victim_of(path): path for path in found}
    chosen = []
    for victim in victims:
        if victim not in by_name:
            raise CaptureError(
                f"--victim {victim}: was not captured; expected ROUND:NODE, one of "
                f"{', '.join(list(by_name)[:12])}"
            )
        chosen.append(by_name[victim])
    return chosen


def _victim_of(capture: Path) -> str:
    _, server_round, _, node = capture.name.split("-")[:4]
    return f"{int(server_round)}:{int(node)}"


def run_attack(
    run_directory: Path,
    name: str,
    *,
    victims: Sequence[str] = (),
    settings: Mapping[str, Any] | None = None,
    seed: int = 0,
    mode: BatchNormMode = "train",
    device: str = "cpu",
    lpips: Path | bool = True,
    out: Path | None = None,
    progress: Progress = ignore_progress,
    ask: Ask = refuse,
) -> AttackRun:
    """Attack the captures of a run, and write rows and picture.

    Parameters
    ----------
    run_directory : Path
        A run of an experiment with ``[capture]``.
    name : str
        The attack's.
    victims : Sequence[str]
        ``ROUND:NODE``; by default all that were captured.
    settings : Mapping, optional
        The attack's own.
    seed : int
        Seeds the attack.
    mode : "train" or "eval"
        How the attacker believes BatchNorm to run at clients.
    device : str
        "cpu" or "cuda".
    lpips : Path or bool
        LPIPS's weights; True fetches them, and omits the metric if they are unavailable.
    out : Path, optional
        By default the first free ``RUN_DIR/attacks/NAME[-n]``.
    progress : callable
        Called with the steps done and the number of steps.
    ask : callable
        Whether code that the run names may be imported (:mod:`atoll.user_code.trust`); what
        ``name`` and ``settings`` name is the caller's own.

    Raises
    ------
    AtollError
        If the attack cannot be run; before anything is computed.

    Examples
    --------
    >>> from atoll import run_attack
    >>> attacked = run_attack(Path("runs/capture"), "idlg", settings={"steps": 9})  # doctest: +SKIP
    >>> attacked.means()["psnr"]  # doctest: +SKIP
    """
    check_run_directory(run_directory)
    if device != "cpu" and not torch.cuda.is_available():
        raise AttackError(f"--device {device}: there is no GPU that PyTorch can use; expected cpu")
    # Sums are rounded in an order that depends on the number of threads.
    torch.set_num_threads(1)
    attack = build_attack(name, settings or {})
    attack.check_available()
    directory = new_run_directory(out, run_directory / ATTACKS_FOLDER, name.replace(":", "-"))
    known = read_victims(choose_captures(run_directory, victims))
    uses = uses_of(run_directory, [victim.capture for victim in known])
    own = [name, *references_in(settings or {})]
    with admitted(uses, run_directory, ask, also=own):
        references = references_of(dataset_of(run_directory))
        _check_examples(run_directory, references, known)
        observations = observe_victims(
            known,
            attack,
            public=references.public,
            mimic_of=lambda capture: mimic_of(capture, attack.threat, device),
            mode=mode,
            device=device,
        )
        attacked = attack_victims(
            name,
            attack,
            known,
            observations,
            candidates=references.candidates,
            lpips=_lpips(lpips),
            seed=seed,
            progress=progress,
        )
    result = AttackRun(directory, attacked)
    _write(result, run_directory.resolve().name, name, attack, seed)
    return result


def dataset_of(run_directory: Path) -> Dataset:
    """Return the data set of a run."""
    experiment = load_run_config(run_directory)
    data, seed = experiment.data, experiment.run.seed
    dataset = load_dataset(data.dataset, data.path, data.dataset_options, seed)
    return fitted(dataset, data, seed, never_clients(experiment))


def uses_of(run_directory: Path, captures: Sequence[Capture]) -> list[CodeUse]:
    """Return the code that a run's configuration and its captures name; each use once."""
    found = uses_in(read_config(run_directory))
    for capture in captures:
        found += uses_in(capture.federation.to_json())
    return list(dict.fromkeys(found))


def _check_examples(run_directory: Path, references: References, victims: Sequence[Victim]) -> None:
    """Refuse a configuration of other examples than the captures are of."""
    expected = tuple(references.candidates.shape[1:])
    for victim in victims:
        found = tuple(examples_of(victim).shape[1:])
        if found != expected:
            kind = victim.capture.federation.inputs.kind
            raise CaptureError(
                f"{victim.capture.directory}: is of {kind} of shape {found}, and the data set of "
                f"{run_directory / CONFIG} has {expected}; expected the same"
            )


def _lpips(wanted: Path | bool) -> LPIPS | None:
    if wanted is False:
        return None
    if isinstance(wanted, Path):
        return LPIPS("alexnet", wanted)
    try:
        return LPIPS("alexnet")
    except DataUnavailableError as error:
        logger.warning("LPIPS is left out: %s", error)
        return None


def _write(result: AttackRun, run: str, name: str, attack: Attack, seed: int) -> None:
    write_rows(result.directory / ROWS, result.rows)
    files = _write_reconstructions(result, run, attack, seed)
    about = {
        "attack": name,
        "settings": attack.model_dump(mode="json"),
        "threat": str(attack.threat),
        "seed": seed,
        "victims": [
            f"{attacked.victim.capture.server_round}:{attacked.victim.capture.node_id}"
            for attacked in result.attacked
        ],
        "means": result.means(),
        "files": dict.fromkeys(files, RAW_CLIENT_DATA),
    }
    write_json(result.directory / ABOUT, about)


def _write_reconstructions(
    result: AttackRun, run: str, attack: Attack, seed: int
) -> tuple[str, ...]:
    """Write the reconstructions beside the truths, as pictures or a table; return the names."""
    inputs = result.attacked[0].victim.capture.federation.inputs
    if isinstance(inputs, ImageInputs):
        truth = torch.cat([attacked.truth for attacked in result.attacked])
        images = torch.cat([attacked.images for attacked in result.attacked])
        with replacing(result.directory / PICTURE) as partial:
            save_picture(partial, truth, images, [row["psnr"] for row in result.rows])
        write_attack_report(
            result.directory,
            result.rows,
            truth,
            images,
            run=run,
            table=plain_table_of(result),
            settings=attack.model_dump(mode="json"),
            seed=seed,
        )
        return PICTURE, PAGE
    rows = [row for attacked in result.attacked for row in reconstructed_cells(attacked)]
    write_rows(result.directory / CELLS, rows)
    return (CELLS,)


def _mean(values: Sequence[float | bool | None]) -> float | None:
    measured = [float(value) for value in values if value is not None]
    return fmean(measured) if measured else None
