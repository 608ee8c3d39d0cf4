"""Decision whether a strategy's aggregation is exactly a weighted mean.

Where it is, workers add up replies and only sums travel. FedAvg's ``aggregate_train`` is that
mean, and FedProx inherits it; FedAvgM, FedAdam, FedYogi and FedAdagrad call it first and then use
nothing but the mean. Ours that do the same say so by
:func:`~atoll.strategies.mean_only.uses_mean_only`.
"""

from __future__ import annotations

from dataclasses import dataclass

from flwr.serverapp.strategy import (
    FedAdagrad,
    FedAdam,
    FedAvg,
    FedAvgM,
    FedXgbBagging,
    FedXgbCyclic,
    FedYogi,
    Strategy,
)

from atoll import flower
from atoll.strategies.mean_only import is_mean_only

_MEAN_ONLY = tuple(
    strategy.aggregate_train for strategy in (FedAvg, FedAvgM, FedAdam, FedYogi, FedAdagrad)
)


@dataclass(frozen=True)
class Aggregation:
    """Handling of the replies to a strategy's training messages.

    Attributes
    ----------
    sum_replies : bool
        Whether workers add up the replies.
    weighted_by : str or None
        The metric by which the strategy weighs replies; None if it does not say.
    reason : str
        Why, in a few words for the log.
    """

    sum_replies: bool
    weighted_by: str | None
    reason: str


def aggregation_of(strategy: Strategy, requested: bool | str = "auto") -> Aggregation:
    """Decide how replies are handled for ``strategy``.

    Parameters
    ----------
    strategy : Strategy
        Any Flower strategy.
    requested : bool or "auto"
        ``strategy.reduce`` of the experiment: True vouches for a strategy of the user's whose
        aggregation is a weighted mean, False keeps every reply.
    """
    name = type(strategy).__name__
    weighted_by = _weighted_by(strategy)
    if requested is False:
        return Aggregation(False, weighted_by, "every reply is kept, as asked for")
    if requested is True and weighted_by is not None:
        return Aggregation(True, weighted_by, "in-worker weighted sums, as asked for")
    obstacle = _obstacle(strategy)
    if obstacle is not None:
        return Aggregation(False, weighted_by, f"every reply is kept: {obstacle}")
    return Aggregation(
        True, weighted_by, f"in-worker weighted sums: {name}'s aggregation is a weighted mean"
    )


def _weighted_by(strategy: Strategy) -> str | None:
    if not isinstance(strategy, FedAvg) or isinstance(strategy, FedXgbBagging | FedXgbCyclic):
        return None
    return strategy.weighted_by_key


def _obstacle(strategy: Strategy) -> str | None:
    name = type(strategy).__name__
    if not isinstance(strategy, FedAvg):
        return f"{name} is not derived from FedAvg"
    kind = type(strategy)
    own = [key for key in ("aggregate_train", "_check_and_log_replies") if key in vars(strategy)]
    if own:
        return f"this {name} has a {own[0]} of its own"
    if kind.aggregate_train not in _MEAN_ONLY and not is_mean_only(kind.aggregate_train):
        return f"{name}'s aggregation is not known to be a weighted mean"
    if not flower.checks_replies_as_flower_does(strategy):
        return f"{name} checks replies in its own way"
    if not flower.averages_metrics_as_flower_does(strategy):
        return "train_metrics_aggr_fn needs every reply"
    return None
