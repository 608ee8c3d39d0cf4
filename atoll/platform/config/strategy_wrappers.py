"""Strategies within strategies (differential privacy, SecAgg+): pairs that are not what they seem.

Such a pair would run, and without noise enough, without clipping, or on the wrong differences.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence

from flwr.serverapp.strategy import (
    DifferentialPrivacyClientSideAdaptiveClipping,
    DifferentialPrivacyClientSideFixedClipping,
    Strategy,
)

from atoll.errors import InvalidExperimentError
from atoll.platform.config.aggregation import aggregation_of
from atoll.strategies.asynchronous.asynchronous_strategy import AsynchronousStrategy
from atoll.strategies.heterogeneity.term_strategy import TermStrategy
from atoll.strategies.malicious.loki import LOKI
from atoll.strategies.sec_agg_plus import SecAggPlus

# Strategies whose clients clip, and the mod of Flower's by which they do.
CLIPPED_BY: dict[type[Strategy], str] = {
    DifferentialPrivacyClientSideFixedClipping: "fixedclipping_mod",
    DifferentialPrivacyClientSideAdaptiveClipping: "adaptiveclipping_mod",
}


def check_wrapped(strategy: Strategy, mods: Sequence[str], *, is_mean: bool) -> None:
    """Refuse wrapped strategies whose wrapper would not keep its promise.

    Parameters
    ----------
    strategy : Strategy
        The experiment's.
    mods : Sequence[str]
        The names of the clients' mods.
    is_mean : bool
        Whether the user says that the strategy's aggregation is a weighted mean.

    Raises
    ------
    InvalidExperimentError
        With the key of the strategy or of the mods, and what was expected.
    """
    # A mod of the user's own may clip.
    has_own = any(":" in mod for mod in mods)
    is_summed = False
    for key, outer, inner in _layers(strategy):
        name, within = type(outer).__name__, type(inner).__name__
        mod = CLIPPED_BY.get(type(outer))
        if mod is not None and mod not in mods and not has_own:
            raise InvalidExperimentError(
                f"client.mods = {list(mods)}: under {name} clients must clip their updates, or its "
                f"noise is for nothing; expected {mod!r} among them"
            )
        is_apart = isinstance(inner, LOKI) and not isinstance(outer, SecAggPlus)
        if is_apart or isinstance(inner, AsynchronousStrategy):
            raise InvalidExperimentError(
                f"{key}.name = {within!r}: its clients begin with different models, which {name} "
                "would take for one; expected a synchronous strategy, FedAvg say"
            )
        if isinstance(inner, TermStrategy):
            raise InvalidExperimentError(
                f"{key}.name = {within!r}: its clients send more than their models, which {name} "
                "knows nothing of; expected a strategy of models alone, FedAvg say"
            )
        is_summed = is_summed or isinstance(outer, SecAggPlus)
        if not is_summed or is_mean or type(inner) in CLIPPED_BY:
            continue
        aggregation = aggregation_of(inner)
        if not aggregation.sum_replies:
            reason = aggregation.reason.removeprefix("every reply is kept: ")
            raise InvalidExperimentError(
                f"{key}.name = {within!r}: under SecAggPlus it has the clients' mean in place of "
                f"their updates, and {reason}; expected a strategy of the mean, FedAvg say (or "
                "strategy.reduce = true, if it is one)"
            )
    _check_clipping_mods(strategy, mods)


def _check_clipping_mods(strategy: Strategy, mods: Sequence[str]) -> None:
    """Refuse Flower's clipping mods where no strategy sends the norm: every client would fail."""
    wrappers = {type(kind) for kind in nested_strategies(strategy)}
    if any(kind.__module__.partition(".")[0] not in ("atoll", "flwr") for kind in wrappers):
        # One of the user's own may send it.
        return
    for kind, mod in CLIPPED_BY.items():
        if mod in mods and kind not in wrappers:
            raise InvalidExperimentError(
                f"client.mods has {mod!r}: it clips to the norm that strategy.name = "
                f"{kind.__name__!r} sends; expected that strategy, or the mod 'clipping'"
            )


def nested_strategies(strategy: Strategy) -> Iterator[Strategy]:
    """Yield a strategy and those within it, the outermost first.

    A wrapper is one of Flower's, ours or a user's that keeps another in its attribute ``strategy``.
    """
    inner: object = strategy
    while isinstance(inner, Strategy):
        yield inner
        inner = getattr(inner, "strategy", None)


def _layers(strategy: Strategy) -> Iterator[tuple[str, Strategy, Strategy]]:
    """Yield each wrapped strategy's key, its wrapper, and itself."""
    key = "strategy"
    for outer, inner in itertools.pairwise(nested_strategies(strategy)):
        key = f"{key}.strategy"
        yield key, outer, inner
