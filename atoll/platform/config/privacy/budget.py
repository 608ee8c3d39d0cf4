"""The noise that ``[privacy]`` asks for, and the strategy or the mod that adds it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from flwr.serverapp.strategy import FedAvg, Strategy

from atoll.attacks.defenses.base.privacy_accounting import gaussian_epsilon
from atoll.clients.settings import ModSettings
from atoll.errors import InvalidExperimentError
from atoll.extras import require
from atoll.platform.config.aggregation import aggregation_of
from atoll.platform.config.privacy.settings import PrivacySettings
from atoll.privacy.accounting import least_noise, noise_for
from atoll.strategies.privacy.central_dp import COUNT_NOISE, CentralDP
from atoll.strategies.privacy.clipping import noise_beside_counts

if TYPE_CHECKING:
    from atoll.platform.config.experiment import Experiment

DP_SGD = "dp-sgd"


def with_budget(strategy: Strategy, experiment: Experiment) -> Strategy:
    """Return the experiment's strategy, within central privacy if ``[privacy]`` is of clients.

    Raises
    ------
    InvalidExperimentError
        If the strategy is not one of Flower's that average, no noise keeps the budget, or the
        first round would spend more.
    """
    settings = experiment.privacy
    if settings is None or settings.level == "example":
        return strategy
    require("opacus", what="privacy.level = 'client'")
    private = CentralDP(
        _checked(strategy, experiment),
        experiment.data.clients,
        noise_multiplier=settings.noise_multiplier or 1.0,
        delta=settings.delta,
        clipping_norm=settings.clipping_norm,
        quantile=settings.quantile if settings.clipping == "adaptive" else None,
        clipping_rate=settings.clipping_rate,
        sampling=settings.sampling,
        mechanism=settings.mechanism,
        accountant=settings.accountant,
        seed=experiment.run.seed,
    )
    if settings.noise_multiplier is None:
        try:
            private.noise_multiplier = noise_for(
                private.accounted, experiment.run.rounds, settings.epsilon, settings.delta
            )
        except ValueError as error:
            raise _no_noise(settings, error) from error
    _check_first_round(settings, private.epsilon(1))
    _check_counts(private)
    return private


def with_private_examples(experiment: Experiment) -> Experiment:
    """Return the experiment with DP-SGD among its mods, if ``[privacy]`` is of examples.

    The noise is that of ``run.rounds`` times ``client.epochs`` uses of an example, without any
    amplification: a client may be in every round, and its batches are shuffled passes.

    Raises
    ------
    InvalidExperimentError
        If no noise keeps the budget, or the first round would spend more.
    """
    settings = experiment.privacy
    if settings is None or settings.level == "client":
        return experiment
    require("opacus", what="privacy.level = 'example'")
    noise = settings.noise_multiplier
    if noise is None:
        uses = experiment.run.rounds * _passes(experiment)
        try:
            noise = least_noise(
                lambda z: gaussian_epsilon(z, uses, settings.delta), settings.epsilon
            )
        except ValueError as error:
            raise _no_noise(settings, error) from error
    arguments = {
        "name": DP_SGD,
        "clipping_norm": settings.clipping_norm,
        "noise_multiplier": noise,
        "delta": settings.delta,
    }
    mods = (*experiment.client.mods, ModSettings.model_validate(arguments))
    client = experiment.client.model_copy(update={"mods": mods})
    changed = experiment.model_copy(update={"client": client})
    _check_first_round(settings, spent_after(changed, None, 1))
    return changed


def spent_after(experiment: Experiment, strategy: Strategy | None, rounds: int) -> float:
    """Return the epsilon that ``[privacy]`` has spent after a number of rounds.

    Parameters
    ----------
    experiment : Experiment
        With a ``[privacy]``; of examples, with the mod (:func:`with_private_examples`).
    strategy : Strategy or None
        The run's; None with privacy of examples.
    rounds : int
        At least 0.
    """
    if isinstance(strategy, CentralDP):
        return strategy.epsilon(rounds)
    settings, added = experiment.privacy, experiment.client.mods[-1]
    assert settings is not None
    assert isinstance(added, ModSettings)
    noise = float(added.arguments["noise_multiplier"])
    return gaussian_epsilon(noise, rounds * _passes(experiment), settings.delta)


def _passes(experiment: Experiment) -> int:
    return experiment.client.epochs or 1


def _no_noise(settings: PrivacySettings, error: ValueError) -> InvalidExperimentError:
    return InvalidExperimentError(
        f"privacy.epsilon = {settings.epsilon:g} at privacy.delta = {settings.delta:g}: {error}; "
        "expected a larger budget or fewer rounds"
    )


def _checked(strategy: Strategy, experiment: Experiment) -> FedAvg:
    """Refuse what draws clients in its own way, or needs more than the mean."""
    name = experiment.strategy.name
    vouched = "auto" if experiment.strategy.reduce is False else experiment.strategy.reduce
    aggregation = aggregation_of(strategy, vouched)
    draws = type(strategy).configure_train.__module__
    if not isinstance(strategy, FedAvg) or not draws.startswith("flwr."):
        raise InvalidExperimentError(
            f"strategy.name = {name!r}: [privacy] draws the clients and gives the strategy their "
            "noisy mean; expected one of Flower's that averages, FedAvg or FedAdam say"
        )
    if not aggregation.sum_replies:
        raise InvalidExperimentError(
            f"strategy.name = {name!r}: [privacy] gives it the clients' noisy mean in place of "
            "their updates, and it needs each of them; expected a strategy of the mean, FedAvg say"
        )
    return strategy


def _check_first_round(settings: PrivacySettings, epsilon: float) -> None:
    if epsilon > settings.epsilon:
        raise InvalidExperimentError(
            f"privacy.noise_multiplier = {settings.noise_multiplier}: the first round spends "
            f"epsilon = {epsilon:.4g}, more than privacy.epsilon = {settings.epsilon:g}; expected "
            "more noise or a larger budget"
        )


def _check_counts(private: CentralDP) -> None:
    if private.quantile is None:
        return
    try:
        noise_beside_counts(private.noise_multiplier, COUNT_NOISE * private.cohort)
    except ValueError as error:
        raise InvalidExperimentError(
            f"privacy.clipping = 'adaptive' with {private.cohort} clients a round: {error}"
        ) from error
