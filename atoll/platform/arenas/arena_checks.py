"""Preflight checks of an arena, in the order in which they are made.

1. :func:`check_settings`: labels and attacks.
2. Each federation's settings, as a sweep's (:mod:`atoll.platform.runs.checks.preflight`).
3. :func:`check_federations`: the number of jobs; defenses on the models that they act on.
4. :func:`check_before_run`: what attacks need beside a capture, whether they fit any federation,
   and each federation's data, partition, model and strategy.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from atoll.attacks.arena.applicability import check_fits
from atoll.attacks.base.attack import Attack
from atoll.attacks.base.attack_building import build_attack
from atoll.attacks.captures.capture import FederationInfo
from atoll.clients.models.model_building import build_model
from atoll.clients.mods import check_mods
from atoll.clients.noprop.noprop_settings import is_noprop
from atoll.errors import AtollError, InvalidExperimentError, UntrustedCodeError
from atoll.platform.config.client_mods import with_references
from atoll.platform.config.experiment import Experiment
from atoll.platform.sweeps.sweep_plan import Sweep, dataset_of
from atoll.platform.sweeps.trial_checks import check_trials

if TYPE_CHECKING:
    from atoll.platform.arenas.arena_plan import Arena
    from atoll.platform.config.sweep_sections import ArenaSettings

# Beyond this an arena is a mistake.
MAX_JOBS = 1_000_000


def check_settings(settings: ArenaSettings) -> None:
    """Refuse labels, attacks and attacks' settings that there are not.

    Raises
    ------
    InvalidExperimentError
        With the key, the value and what was expected.
    """
    _check_labels(settings)
    _check_attacks(settings)


def check_federations(settings: ArenaSettings, federations: Sweep) -> None:
    """Refuse too many jobs, and defenses that cannot act on a federation's model.

    Raises
    ------
    InvalidExperimentError
        With the numbers, or the defense and what the model lacks.
    """
    _check_size(settings, federations)
    _check_models(federations)


def check_before_run(arena: Arena) -> None:
    """Refuse attacks that lack something or fit no federation, and federations that cannot be run.

    Raises
    ------
    InvalidExperimentError
        Naming the attack or the trial, and what is missing.
    """
    _check_available(arena)
    check_trials(arena.federations.trials)


def _check_labels(settings: ArenaSettings) -> None:
    """Refuse names of defenses and attacks that the arena does not have."""
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
    """Refuse attacks that are unknown, and settings that they do not take."""
    for label in settings.attacks:
        try:
            _attack_of(settings, label)
        except UntrustedCodeError:
            # A dry run imports no code of the user's, and knows not what that would refuse.
            continue


def _attack_of(settings: ArenaSettings, label: str) -> Attack:
    key = f"arena.attacks.{label}"
    name, own = settings.attack_of(label)
    if "defense" in own:
        raise InvalidExperimentError(
            f"{key}.defense = {own['defense']!r}: is set by arena.knowledge; expected it to be "
            "left out"
        )
    return build_attack(name, own, f"{key}.name", prefix=f"{key}.", error=InvalidExperimentError)


def _check_size(settings: ArenaSettings, federations: Sweep) -> None:
    """Refuse more attacks than anybody waits for; each is a job of seconds to hours."""
    capture = federations.base.capture
    rounds = 1 if capture is None else len(capture.rounds)
    clients = max(trial.experiment.data.clients for trial in federations.trials)
    victims = min(settings.victims, clients)
    kinds = len(settings.attacks) * len(settings.knowledge)
    jobs = len(federations.trials) * rounds * victims * kinds
    if jobs > MAX_JOBS:
        raise InvalidExperimentError(
            f"arena: {len(federations.trials)} federations, {rounds} rounds, {victims} victims and "
            f"{kinds} attacks make {jobs} jobs; expected at most {MAX_JOBS}"
        )


def _check_models(federations: Sweep) -> None:
    """Refuse defenses that lack something in the models that they would act on."""
    seen: list[tuple[Any, Any]] = []
    for trial in federations.trials:
        experiment = trial.experiment
        parts = (experiment.model, experiment.client.mods)
        if parts in seen:
            continue
        seen.append(parts)
        dataset = dataset_of(experiment)
        try:
            model = build_model(experiment.model, dataset.inputs, dataset.task, 0)
        except UntrustedCodeError:
            continue
        try:
            check_mods(with_references(experiment.client).mods, model)
        except InvalidExperimentError as error:
            raise InvalidExperimentError(f"{error} (arena.defenses.{trial.method})") from None
        except UntrustedCodeError:
            continue


def _check_available(arena: Arena) -> None:
    """Refuse attacks that need something which is not there, or that fit no federation."""
    for label in arena.settings.attacks:
        attack = _attack_of(arena.settings, label)
        try:
            attack.check_available()
            _check_fits_one(arena, attack)
        except AtollError as error:
            raise InvalidExperimentError(f"arena.attacks.{label}: {error}") from error


def _check_fits_one(arena: Arena, attack: Attack) -> None:
    """Refuse an attack that can be run on none of the federations' updates.

    One that fits some of them is run on these; its other jobs fail, and say why.
    """
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
    dataset = dataset_of(experiment)
    return FederationInfo(
        dataset=dataset.name,
        model=experiment.model,
        client=with_references(experiment.client),
        inputs=dataset.inputs,
        task=dataset.task,
        num_rounds=experiment.run.rounds,
    )
