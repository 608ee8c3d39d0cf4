"""Arenas: an experiment file with a section ``[arena]`` in, federations and attacks out."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field, ValidationError

from atoll.clients.ranges import Count, Examples, Processors, Seed
from atoll.clients.settings import Section
from atoll.errors import AtollError, CaptureError, InvalidExperimentError, UntrustedCodeError
from atoll.platform.experiment import ARENA, read_tables, with_overrides
from atoll.platform.run_files import CLIENT_SCHEMA, CLIENTS, read_table
from atoll.platform.sweep_axes import SEED
from atoll.platform.sweep_plan import Sweep, SweepSettings, Trial, dataset_of, plan_sweep
from atoll.platform.validation import describe_problems
from atoll.trust import CodeUse, uses_in

if TYPE_CHECKING:
    from atoll.attacks.arena.job import Conditions, Job
    from atoll.attacks.attack import Attack
    from atoll.attacks.captures import FederationInfo
    from atoll.platform.experiment import Experiment


class ArenaSettings(Section):
    """``[arena]``: which attacks meet which defenses, on whose captures.

    Attributes
    ----------
    attacks : dict
        Attacks by a label: each a table with its ``name`` and settings.
    defenses : dict
        Defenses by a label: each the tables of an experiment (``client.mods``, ``model``) that are
        put over the file's own. ``none`` is the file as it is.
    grid : dict
        Lists of values by experiment key ("model.name", "client.batch_size"): every combination
        is a setting.
    seeds : list[int]
        Seeds of the federations, and of the attacks on them.
    knowledge : list
        "naive": the attacker matches the update as if nobody defended it. "adaptive": it knows
        which defenses act, estimates their arguments from the update, and does the same to its own
        gradients.
    sums : list[str]
        Defenses under which the onlooker sees only the sum over a round's captured clients
        (secure aggregation).
    victims : int
        Captures of each round and federation that are attacked, of the lowest nodes.
    baseline : str or None
        The attack that others are compared with; by default the first.
    gallery : int
        Test images that a reconstruction is told from.
    lpips : bool
        Whether the perceptual distance is measured.
    batch_norm : "train" or "eval"
        How attackers believe BatchNorm to run at the client.
    pictures : bool
        Whether the clients' images and their reconstructions are kept, and shown in the report.
    cpus_per_job, gpus_per_job : float
        What an attack takes of the cluster.
    """

    attacks: Annotated[dict[str, dict[str, Any]], Field(min_length=1)]
    defenses: Annotated[dict[str, dict[str, Any]], Field(min_length=1)]
    grid: dict[str, Any] = Field(default_factory=dict)
    seeds: Annotated[tuple[Seed, ...], Field(strict=False, min_length=1)] = (0,)
    knowledge: Annotated[
        tuple[Literal["naive", "adaptive"], ...], Field(strict=False, min_length=1)
    ] = ("naive", "adaptive")
    sums: Annotated[tuple[str, ...], Field(strict=False)] = ()
    victims: Count = 1
    baseline: str | None = None
    gallery: Examples = 1000
    lpips: bool = False
    batch_norm: Literal["train", "eval"] = "train"
    pictures: bool = False
    cpus_per_job: Processors = 1.0
    gpus_per_job: Annotated[float, Field(ge=0.0, le=1_000.0)] = 0.0


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

    def conditions(self, *, trust_code: bool = False) -> Conditions:
        """Return what all jobs share.

        Parameters
        ----------
        trust_code : bool
            Whether captures may name code that the arena's file does not.
        """
        from atoll.attacks.arena.job import Conditions

        settings = self.settings
        return Conditions(
            dataset=dataset_of(self.federations.base).directory,
            gallery=settings.gallery,
            lpips=settings.lpips,
            batch_norm=settings.batch_norm,
            device="cuda" if settings.gpus_per_job > 0 else "cpu",
            code=None if trust_code else self._code(),
        )

    def _code(self) -> frozenset[CodeUse]:
        """Return the code that captures of the federations may name."""
        from atoll.platform.mods import with_references

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
    """
    tables = with_overrides(read_tables(path), overrides)
    if ARENA not in tables:
        raise InvalidExperimentError(
            f"{path}: has no section [{ARENA}]; expected one with attacks and defenses"
        )
    try:
        settings = _ArenaFile.model_validate({ARENA: tables.pop(ARENA)}).arena
    except ValidationError as error:
        raise InvalidExperimentError(describe_problems(error, _ArenaFile)) from None
    if "capture" not in tables:
        raise InvalidExperimentError(
            f"{path}: has no section [capture]; expected one with nodes and rounds"
        )
    _check_labels(settings)
    _check_attacks(settings)
    sweep_settings = SweepSettings(
        grid={**settings.grid, SEED: list(settings.seeds)}, variants=settings.defenses
    )
    federations = plan_sweep(tables, sweep_settings)
    _check_models(federations)
    return Arena(settings, federations)


def _check_labels(settings: ArenaSettings) -> None:
    for name in settings.sums:
        if name not in settings.defenses:
            raise InvalidExperimentError(
                f"arena.sums has {name!r}: no such defense; expected one of "
                f"{', '.join(settings.defenses)}"
            )
    if settings.baseline is not None and settings.baseline not in settings.attacks:
        raise InvalidExperimentError(
            f"arena.baseline = {settings.baseline!r}: no such attack; expected one of "
            f"{', '.join(settings.attacks)}"
        )


def _check_attacks(settings: ArenaSettings) -> None:
    from atoll.attacks import ATTACKS

    for label, table in settings.attacks.items():
        key = f"arena.attacks.{label}"
        name = table.get("name", label)
        try:
            kind = ATTACKS.find(str(name), f"{key}.name")
        except UntrustedCodeError:
            # A dry run imports no code of the user's, and knows not what that would refuse.
            continue
        own = {k: v for k, v in table.items() if k != "name"}
        if "defense" in own:
            raise InvalidExperimentError(
                f"{key}.defense = {own['defense']!r}: is set by arena.knowledge; expected it to be "
                "left out"
            )
        try:
            kind(**own)
        except ValidationError as error:
            text = describe_problems(error, kind)
            raise InvalidExperimentError(
                "\n".join(f"{key}.{line}" for line in text.splitlines())
            ) from None


def _check_models(federations: Sweep) -> None:
    """Refuse defenses that lack something in the models that they would act on."""
    from atoll.clients.models.build import build_model
    from atoll.clients.mods import check_mods
    from atoll.platform.mods import with_references

    seen: list[tuple[Any, Any]] = []
    for trial in federations.trials:
        experiment = trial.experiment
        parts = (experiment.model, experiment.client.mods)
        if parts in seen:
            continue
        seen.append(parts)
        dataset = dataset_of(experiment)
        try:
            model = build_model(experiment.model, dataset.image_shape, len(dataset.classes), 0)
        except UntrustedCodeError:
            continue
        try:
            check_mods(with_references(experiment.client).mods, model)
        except InvalidExperimentError as error:
            raise InvalidExperimentError(f"{error} (arena.defenses.{trial.method})") from None
        except UntrustedCodeError:
            continue


def check_available(arena: Arena) -> None:
    """Refuse attacks that need something which is not there, or that fit no federation.

    Raises
    ------
    InvalidExperimentError
        Naming the attack and what is missing.
    """
    from atoll.attacks import ATTACKS

    for label, table in arena.settings.attacks.items():
        kind = ATTACKS.find(str(table.get("name", label)), f"arena.attacks.{label}.name")
        attack = kind(**{k: v for k, v in table.items() if k != "name"})
        try:
            attack.check_available()
            _check_fits_one(arena, attack)
        except AtollError as error:
            raise InvalidExperimentError(f"arena.attacks.{label}: {error}") from error


def _check_fits_one(arena: Arena, attack: Attack) -> None:
    """Refuse an attack that can be run on none of the federations' updates.

    One that fits some of them is run on these; its other jobs fail, and say why.
    """
    from atoll.attacks.arena.fit import check_fits
    from atoll.clients.noprop.settings import is_noprop

    experiments = [trial.experiment for trial in arena.federations.trials]
    if any(is_noprop(experiment.model) for experiment in experiments):
        # Which layers a client is sent is known when it is sent them.
        return
    problem: AtollError | None = None
    for federation, examples in _clients_of(experiments):
        try:
            check_fits(attack, federation, examples)
        except AtollError as error:
            problem = problem or error
        else:
            return
    if problem is not None:
        raise problem


def _clients_of(experiments: Sequence[Experiment]) -> Iterator[tuple[FederationInfo, int]]:
    """Yield the kinds of clients that there are, with how many examples they have."""
    seen = set[str]()
    for experiment in experiments:
        given = experiment.data.examples_per_client
        kind = f"{experiment.model!r} {experiment.client!r} {given}"
        if kind in seen:
            continue
        seen.add(kind)
        info = _info_of(experiment)
        # Where clients have as many as the partition gives them, some may have but one.
        yield from ((info, count) for count in ((1, 2) if given is None else (given,)))


def _info_of(experiment: Experiment) -> FederationInfo:
    from atoll.attacks.captures import FederationInfo
    from atoll.platform.mods import with_references

    dataset = dataset_of(experiment)
    return FederationInfo(
        dataset=dataset.name,
        model=experiment.model,
        client=with_references(experiment.client),
        image_shape=dataset.image_shape,
        classes=dataset.classes,
        mean=dataset.mean,
        std=dataset.std,
        num_rounds=experiment.run.rounds,
    )


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
    from atoll.attacks.arena.job import Job

    labels = {
        "defense": trial.method,
        "setting": _setting_of(trial),
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


def _setting_of(trial: Trial) -> str:
    return ", ".join(f"{key} = {value}" for key, value in trial.choices) or "as in the file"


def _victims(arena: Arena, trial: Trial, directory: Path) -> Iterator[tuple[Path, ...]]:
    """Yield what is attacked: each round's first captures, or all of them where sums are seen."""
    from atoll.attacks.capture_files import find_captures

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
    from atoll.attacks import ATTACKS
    from atoll.attacks.arena.job import can_adapt
    from atoll.attacks.defenses.adaptive import defenses_of
    from atoll.platform.mods import with_references

    defenses = defenses_of(with_references(trial.experiment.client))
    is_mimicked = any(defense.is_mimicked for defense in defenses)
    is_mimicked = is_mimicked and trial.method not in arena.settings.sums
    for label, table in arena.settings.attacks.items():
        name = str(table.get("name", label))
        settings = {k: v for k, v in table.items() if k != "name"}
        differs = is_mimicked and can_adapt(ATTACKS.find(name, "arena.attacks"))
        for knowledge in arena.settings.knowledge if differs else ("naive",):
            yield label, name, settings, knowledge
