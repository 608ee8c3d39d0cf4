"""Arenas: an experiment file with a section ``[arena]`` in, federations and attacks out."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pyarrow.compute as pc

from atoll.attacks.arena.arena_job import Conditions, Job
from atoll.attacks.base.adaptive import defenses_of
from atoll.attacks.base.attack_building import can_adapt, find_attack
from atoll.attacks.captures.capture_files import find_captures
from atoll.clients.settings import Section
from atoll.errors import CaptureError, InvalidExperimentError
from atoll.platform.arenas.arena_checks import check_federations, check_settings
from atoll.platform.callbacks.metric_names import EPSILON_SPENT
from atoll.platform.config.client_mods import with_references
from atoll.platform.config.experiment import ARENA, read_tables, with_overrides
from atoll.platform.config.sweep_sections import ArenaSettings, SweepSettings
from atoll.platform.reports.arena.facts import ArenaFacts, Privacy
from atoll.platform.reports.run_head import deltas_of
from atoll.platform.run_directory.run_files import (
    CLIENT_SCHEMA,
    CLIENTS,
    ROUNDS,
    read_config,
    read_result,
    read_rows,
    read_table,
)
from atoll.platform.sweeps.axes import SEED
from atoll.platform.sweeps.sweep_plan import Sweep, Trial, dataset_of, plan_sweep
from atoll.platform.sweeps.trial_rows import TRIALS
from atoll.user_code.trust import CodeUse, uses_in
from atoll.validation import validated

# The server's epsilon, in the table of rounds.


class _ArenaFile(Section):
    """For errors that name ``arena.key``."""

    arena: ArenaSettings


@dataclass(frozen=True)
class Arena:
    """An arena: its settings, and the federations whose captures are attacked."""

    settings: ArenaSettings
    federations: Sweep

    @property
    def baseline(self) -> str:
        """The attack that others are compared with."""
        return self.settings.baseline or next(iter(self.settings.attacks))

    def tables(self) -> dict[str, Any]:
        """Return the arena as it is written: ``[arena]`` and the experiment's sections."""
        settings = self.settings.model_dump(mode="json", exclude_none=True)
        return {"arena": settings, **self.federations.base.to_dict()}

    def conditions(self, *, trust_code: bool = False) -> Conditions:
        """Return what all jobs share.

        Parameters
        ----------
        trust_code : bool
            Whether captures may name code that the arena's file does not.
        """
        settings = self.settings
        return Conditions(
            dataset=dataset_of(self.federations.base).directory,
            candidates=settings.candidates,
            lpips=settings.lpips,
            batch_norm=settings.batch_norm,
            device="cuda" if settings.gpus_per_job > 0 else "cpu",
            code=None if trust_code else self._code(),
        )

    def _code(self) -> frozenset[CodeUse]:
        """Return the code that captures of the federations may name."""
        experiments = [trial.experiment for trial in self.federations.trials]
        tables = [
            {
                "model": experiment.model.model_dump(mode="json"),
                "client": with_references(experiment.client).model_dump(mode="json"),
            }
            for experiment in experiments
        ]
        return frozenset(use for table in tables for use in uses_in(table))


def load_arena(path: Path, overrides: Sequence[str] = ()) -> Arena:
    """Read an arena file, and refuse what cannot be run before anything is.

    Parameters
    ----------
    path : Path
        An experiment file with sections ``[capture]`` and ``[arena]``.
    overrides : Sequence[str]
        ``section.key=value``; they win over the file.

    Raises
    ------
    InvalidExperimentError
        If an attack or a defense is unknown or has wrong settings, a defense cannot act on a model,
        or a federation cannot be run.

    Examples
    --------
    >>> from pathlib import Path
    >>> from tempfile import TemporaryDirectory
    >>> from atoll import load_arena
    >>> with TemporaryDirectory() as folder:
    ...     path = Path(folder) / "arena.toml"
    ...     _ = path.write_text('''
    ... [data]
    ... dataset = "digits"
    ... clients = 4
    ... [model]
    ... name = "mlp"
    ... [capture]
    ... nodes = [1]
    ... rounds = [1]
    ... [arena.attacks]
    ... linear = { name = "linear-layer" }
    ... [arena.defenses]
    ... none = {}
    ... noise = { client = { mods = [{ name = "gaussian-noise", std = 0.01 }] } }
    ... ''')
    ...     arena = load_arena(path)
    >>> arena.baseline, [trial.method for trial in arena.federations.trials]
    ('linear', ['none', 'noise'])
    """
    tables = with_overrides(read_tables(path), overrides)
    if ARENA not in tables:
        raise InvalidExperimentError(
            f"{path}: has no section [{ARENA}]; expected one with attacks and defenses"
        )
    settings = validated(_ArenaFile, {ARENA: tables.pop(ARENA)}).arena
    if "capture" not in tables:
        raise InvalidExperimentError(
            f"{path}: has no section [capture]; expected one with nodes and rounds"
        )
    check_settings(settings)
    sweep_settings = SweepSettings(
        grid={**settings.grid, SEED: list(settings.seeds)}, variants=settings.defenses
    )
    federations = plan_sweep(tables, sweep_settings)
    check_federations(settings, federations)
    return Arena(settings, federations)


def jobs_of(arena: Arena, trial: Trial, directory: Path, accuracy: float | None) -> list[Job]:
    """Return the jobs on one federation's captures.

    Parameters
    ----------
    trial : Trial
        The federation.
    directory : Path
        Its run directory.
    accuracy : float or None
        The server's, at the end of the run, for the rows.
    """
    labels = {
        "defense": trial.method,
        "setting": setting_of(trial),
        "seed": trial.seed,
        "accuracy": accuracy,
    }
    jobs = []
    for captures in _victims(arena, trial, directory):
        for label, kind, settings, knowledge in _attackers(arena, trial):
            jobs.append(
                Job(
                    federation=trial.key,
                    captures=captures,
                    attack=kind,
                    settings=settings,
                    knowledge=knowledge,
                    seed=trial.seed,
                    labels={**labels, "attack_label": label, "knowledge": knowledge},
                )
            )
    return jobs


def facts_of(arena: Arena, federations: Path, failed: Mapping[str, str]) -> ArenaFacts:
    """Return what the report says beside the attacks' rows, from the federations' directories."""
    privacy: dict[tuple[str, str], Privacy] = {}
    versions: dict[str, str] = {}
    for trial in arena.federations.trials:
        place = federations / TRIALS / trial.name
        if read_result(place) is None:
            continue
        versions = {**read_config(place).get("versions", {})}
        spent = _spent(trial, place)
        if spent is not None:
            where = (setting_of(trial), trial.method)
            before = privacy.get(where, Privacy(0.0, None))
            privacy[where] = Privacy(max(spent.epsilon, before.epsilon), spent.delta)
    classes = len(dataset_of(arena.federations.base).task.class_names) or None
    return ArenaFacts(arena.tables(), privacy, classes, versions, dict(failed))


def _spent(trial: Trial, place: Path) -> Privacy | None:
    """Return what a federation has spent: its clients, or the server on what clients take part."""
    clients = read_rows(place / CLIENTS, CLIENT_SCHEMA)
    epsilon = pc.max(clients.column("epsilon")).as_py()
    settings = trial.experiment.privacy
    if epsilon is None and settings is not None and settings.level == "client":
        rounds = read_table(place / ROUNDS)
        if EPSILON_SPENT in rounds.column_names:
            epsilon = pc.max(rounds.column(EPSILON_SPENT)).as_py()
    if epsilon is None:
        return None
    deltas = [delta for _, delta in deltas_of(trial.experiment.to_dict()["client"].get("mods"))]
    deltas += [] if settings is None else [settings.delta]
    return Privacy(epsilon, max(deltas, default=None))


def setting_of(trial: Trial) -> str:
    """Return the grid's keys and values of a federation, as text."""
    return ", ".join(f"{key} = {value}" for key, value in trial.choices) or "as in the file"


def _victims(arena: Arena, trial: Trial, directory: Path) -> Iterator[tuple[Path, ...]]:
    """Yield what is attacked: each round's first captures, or all of them where sums are seen."""
    try:
        found = find_captures(directory)
    except CaptureError as error:
        reason = _first_failure(directory)
        said = (
            f"no client's update was captured: {reason} (without {directory} this federation is "
            "run again)"
        )
        raise CaptureError(said if reason else str(error)) from error
    by_round: dict[str, list[Path]] = {}
    for path in found:
        by_round.setdefault("-".join(path.name.split("-")[:2]), []).append(path)
    for paths in by_round.values():
        if trial.method in arena.settings.sums:
            yield tuple(paths)
        else:
            yield from ((path,) for path in paths[: arena.settings.victims])


def _first_failure(directory: Path) -> str | None:
    """Return why the first of a run's clients that failed did so, if one failed."""
    reasons = read_table(directory / CLIENTS, ["reason"], needed=CLIENT_SCHEMA)["reason"]
    return next((str(reason) for reason in reasons.drop_null().to_pylist()), None)


def _attackers(
    arena: Arena, trial: Trial
) -> Iterator[tuple[str, str, Mapping[str, Any], Literal["naive", "adaptive"]]]:
    """Yield each attack with each kind of knowledge that makes a difference to it.

    What clients' defenses left in an update cannot be read off a sum over clients.
    """
    defenses = defenses_of(with_references(trial.experiment.client))
    is_mimicked = any(defense.is_mimicked for defense in defenses)
    is_mimicked = is_mimicked and trial.method not in arena.settings.sums
    for label in arena.settings.attacks:
        name, settings = arena.settings.attack_of(label)
        differs = is_mimicked and can_adapt(find_attack(name, "arena.attacks"))
        for knowledge in arena.settings.knowledge if differs else ("naive",):
            yield label, name, settings, knowledge
