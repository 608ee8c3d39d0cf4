"""Alignment strategies under clients' mods: the effect of each mod on each strategy's guarantee.

An alignment strategy guarantees that a round is a step of the centralised method. A mod changes
what clients send. It sees training messages only: answers to queries are sent unchanged.
:data:`TABLE` has the effect on the guarantee by the kind of messages that a strategy asks for and
the place where a mod acts; tests verify each entry on real clients.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any

from flwr.serverapp.strategy import (
    DifferentialPrivacyClientSideAdaptiveClipping,
    DifferentialPrivacyClientSideFixedClipping,
    DifferentialPrivacyServerSideAdaptiveClipping,
    DifferentialPrivacyServerSideFixedClipping,
    Strategy,
)

from atoll.attacks.defenses.base.defense import Defense
from atoll.clients.mods import KEY
from atoll.errors import InvalidExperimentError
from atoll.platform.config.strategy_wrappers import nested_strategies
from atoll.strategies.alignment.alignment_strategy import AlignmentStrategy
from atoll.strategies.alignment.methods.gradients import GradientStrategy
from atoll.strategies.alignment.methods.updates import FedDGGA
from atoll.strategies.sec_agg_plus import SecAggPlus

logger = logging.getLogger("atoll")


class Traffic(Enum):
    """Messages that a strategy has clients send."""

    REPLIES = "models trained on a weighted loss"
    TERMS = "models trained on a loss with terms beside the examples' own"
    MOMENTS = "moments of their examples, and models trained with cotangents"
    GRADIENTS = "gradients, in the place of models"
    MEASURED_GRADIENTS = "moments of their examples, and gradients in the place of models"
    QUERIES = "answers to queries alone"


class Kind(Enum):
    """Place where a mod acts."""

    OBSERVER = "looks only"
    STEP = "on each step's gradient"
    UPDATE = "on the update"
    NOISE_ON_STEP = "on each step's gradient, without bias"
    NOISE_ON_UPDATE = "on the update, without bias"
    DP_STEP = "on each example's gradient, for a guarantee"
    DP_UPDATE = "on the update, for a guarantee"
    OWN_LOSS = "puts its own loss in the place of the client's"
    ONE_RECORD = "Flower's, for messages of one record"
    FLOWER_DP = "Flower's, on the update, for a guarantee"
    MASK = "secure aggregation"
    VOTE = "on the scores of masks, which it turns into votes"


class Status(Enum):
    """Effect of a mod on a strategy's guarantee."""

    EXACT = "exact"
    UNBIASED = "unbiased"
    INEXACT = "inexact"
    REFUSED = "refused"


@dataclass(frozen=True)
class Verdict:
    """Effect of a mod on a strategy's guarantee, with the reason."""

    status: Status
    reason: str


_SAME = Verdict(Status.EXACT, "the mod changes nothing")
_NOISE = Verdict(Status.UNBIASED, "in expectation, after one step of SGD, a round is what it says")
_EACH = Verdict(
    Status.INEXACT,
    "the mod acts on each client's share, and the mean of what it leaves is not what it leaves of "
    "the mean",
)
_NO_STEPS = Verdict(
    Status.REFUSED, "clients reply with gradients and take no steps, on which the mod would act"
)
_NO_TRAINING = Verdict(
    Status.REFUSED, "clients get queries alone, and the mod acts on training messages"
)
_OPEN_MOMENTS = Verdict(
    Status.REFUSED,
    "clients also send moments of their examples, without noise: the guarantee would not hold",
)
_OPEN_TERMS = Verdict(
    Status.REFUSED,
    "the loss has terms that are no sum over examples, and would be clipped out or in unseen",
)
_OTHER_LOSS = Verdict(
    Status.REFUSED,
    "the mod's loss takes the place of the strategy's, without the domains' weights and terms "
    "(strategy.name = 'Mixup' has them)",
)
_MANY_RECORDS = Verdict(
    Status.REFUSED, "the mod takes messages of one record of each kind, and these have more"
)
_TERMS_ELSEWHERE = Verdict(
    Status.REFUSED,
    "the mod takes messages of one array record, and a loss's terms travel in others (the mod "
    "'local-dp' does the same, and takes them)",
)
_NO_MODELS = Verdict(
    Status.REFUSED,
    "the mod takes replies for models, and these are gradients (the mod 'local-dp' knows them)",
)
_UNMASKED = Verdict(
    Status.REFUSED,
    "the protocol's messages have no place for weights, terms and queries, which clients would "
    "answer unmasked",
)
_VOTES = Verdict(
    Status.REFUSED,
    "the mod sends votes on masks, and a round is a step of what clients train or of its gradient",
)

_ALL: Mapping[Kind, Verdict] = {
    Kind.OBSERVER: _SAME,
    Kind.OWN_LOSS: _OTHER_LOSS,
    Kind.ONE_RECORD: _MANY_RECORDS,
    Kind.MASK: _UNMASKED,
    Kind.VOTE: _VOTES,
}
_WITH_STEPS: Mapping[Kind, Verdict] = {
    **_ALL,
    Kind.STEP: _EACH,
    Kind.UPDATE: _EACH,
    Kind.NOISE_ON_STEP: _NOISE,
    Kind.NOISE_ON_UPDATE: _NOISE,
}
_WITHOUT_STEPS: Mapping[Kind, Verdict] = {
    **_ALL,
    Kind.STEP: _NO_STEPS,
    Kind.UPDATE: _EACH,
    Kind.NOISE_ON_STEP: _NO_STEPS,
    Kind.NOISE_ON_UPDATE: _NOISE,
    Kind.OWN_LOSS: _NO_STEPS,
    Kind.DP_STEP: _NO_STEPS,
}
_MEASURED: Mapping[Kind, Verdict] = dict.fromkeys(
    (Kind.DP_STEP, Kind.DP_UPDATE, Kind.FLOWER_DP), _OPEN_MOMENTS
)
TABLE: Mapping[Traffic, Mapping[Kind, Verdict]] = {
    Traffic.REPLIES: {
        **_WITH_STEPS,
        Kind.DP_STEP: _EACH,
        Kind.DP_UPDATE: _EACH,
        Kind.FLOWER_DP: _EACH,
    },
    Traffic.TERMS: {
        **_WITH_STEPS,
        Kind.DP_STEP: _OPEN_TERMS,
        Kind.DP_UPDATE: _EACH,
        Kind.FLOWER_DP: _TERMS_ELSEWHERE,
    },
    Traffic.MOMENTS: {**_WITH_STEPS, **_MEASURED},
    Traffic.GRADIENTS: {
        **_WITHOUT_STEPS,
        Kind.DP_UPDATE: _EACH,
        Kind.FLOWER_DP: _NO_MODELS,
    },
    Traffic.MEASURED_GRADIENTS: {**_MEASURED, **_WITHOUT_STEPS},
    Traffic.QUERIES: {
        **dict.fromkeys(Kind, _NO_TRAINING),
        Kind.OBSERVER: _SAME,
        Kind.MASK: _UNMASKED,
    },
}
# Where a mod acts, of those that do not say so themselves.
KINDS: Mapping[str, Kind] = {
    "message_size_mod": Kind.OBSERVER,
    "arrays_size_mod": Kind.OBSERVER,
    "fixedclipping_mod": Kind.ONE_RECORD,
    "adaptiveclipping_mod": Kind.ONE_RECORD,
    "LocalDpMod": Kind.FLOWER_DP,
    "secure-aggregation": Kind.MASK,
    "mask-bits": Kind.VOTE,
    "dp-sgd": Kind.DP_STEP,
    "local-dp": Kind.DP_UPDATE,
    "mixup": Kind.OWN_LOSS,
}
UNBIASED = ("gaussian-noise", "quantization")
CENTRAL_DP = (
    DifferentialPrivacyClientSideAdaptiveClipping,
    DifferentialPrivacyClientSideFixedClipping,
    DifferentialPrivacyServerSideAdaptiveClipping,
    DifferentialPrivacyServerSideFixedClipping,
)


def traffic_of(strategy: AlignmentStrategy) -> Traffic:
    """Return what a strategy has clients send."""
    if isinstance(strategy, GradientStrategy):
        return Traffic.QUERIES
    has_penalty = type(strategy).penalty is not AlignmentStrategy.penalty
    asks = has_penalty and (strategy.penalty_weight > 0.0 or strategy.always_measures)
    asks = asks or isinstance(strategy, FedDGGA) or strategy.diagnostics_every > 0
    if strategy.client_update == "gradient":
        return Traffic.MEASURED_GRADIENTS if asks else Traffic.GRADIENTS
    if asks:
        return Traffic.MOMENTS
    has_terms = bool(strategy.local_terms()) or strategy.l2 > 0.0
    return Traffic.TERMS if has_terms or strategy.mixup_alpha is not None else Traffic.REPLIES


def kind_of(name: str, mod: object) -> Kind | None:
    """Return where a mod acts, or None of one of the user's own."""
    if name in KINDS:
        return KINDS[name]
    if not isinstance(mod, Defense) or ":" in name:
        return None
    on_step = mod.acts_on == "step"
    if name in UNBIASED:
        return Kind.NOISE_ON_STEP if on_step else Kind.NOISE_ON_UPDATE
    return Kind.STEP if on_step else Kind.UPDATE


def verdict_of(strategy: AlignmentStrategy, name: str, mod: object) -> Verdict | None:
    """Return the effect of a mod on a strategy's guarantee; None for a mod of the user's own.

    Parameters
    ----------
    strategy : AlignmentStrategy
        The strategy.
    name : str
        The mod's registered name.
    mod : object
        The mod.
    """
    kind = kind_of(name, mod)
    if kind is None:
        return None
    verdict = TABLE[traffic_of(strategy)][kind]
    # What looks at each update sees the noise of each.
    return _EACH if verdict is _NOISE and not strategy.sums_suffice else verdict


def check_combinations(strategy: Strategy, named: Sequence[tuple[str, Any]]) -> None:
    """Refuse mods under which an alignment strategy, or the mod, would not keep its promise.

    Parameters
    ----------
    strategy : Strategy
        Any; others than alignment strategies are not looked at.
    named : Sequence[tuple[str, Any]]
        The clients' mods by their registered names.

    Raises
    ------
    InvalidExperimentError
        Naming both, and why.
    """
    for outer, aligned in _aligned(strategy):
        name = type(aligned).__name__
        if outer is not None:
            _check_wrapper(outer, aligned)
        for mod, verdict in _verdicts(aligned, named):
            if verdict.status is Status.REFUSED:
                raise InvalidExperimentError(
                    f"{KEY} has {mod!r} with strategy.name = {name!r}: {verdict.reason}; expected "
                    "one without the other"
                )


def warn_of_combinations(strategy: Strategy, named: Sequence[tuple[str, Any]]) -> None:
    """Say which mods make an alignment strategy inexact; as :func:`check_combinations`."""
    for _, aligned in _aligned(strategy):
        for mod, verdict in _verdicts(aligned, named):
            if verdict.status in (Status.INEXACT, Status.UNBIASED):
                logger.warning(
                    "%s under the mod %r is %s: %s",
                    type(aligned).__name__,
                    mod,
                    verdict.status.value,
                    verdict.reason,
                )


def _verdicts(
    strategy: AlignmentStrategy, named: Sequence[tuple[str, Any]]
) -> Iterator[tuple[str, Verdict]]:
    for name, mod in named:
        verdict = verdict_of(strategy, name, mod)
        if verdict is not None:
            yield name, verdict


def _aligned(strategy: Strategy) -> Iterator[tuple[Strategy | None, AlignmentStrategy]]:
    """Yield an alignment strategy, and what wraps it."""
    outer: Strategy | None = None
    for inner in nested_strategies(strategy):
        if isinstance(inner, AlignmentStrategy):
            yield outer, inner
        outer = inner


def _check_wrapper(outer: Strategy, aligned: AlignmentStrategy) -> None:
    """Refuse privacy around a strategy whose clients send more than their models."""
    traffic = traffic_of(aligned)
    is_private = isinstance(outer, CENTRAL_DP)
    if isinstance(outer, SecAggPlus):
        reason = _UNMASKED.reason
    elif is_private and traffic not in (Traffic.REPLIES, Traffic.TERMS):
        reason = f"clients send {traffic.value}, which it neither clips nor adds noise to"
    else:
        return
    raise InvalidExperimentError(
        f"strategy.strategy.name = {type(aligned).__name__!r} within {type(outer).__name__}: "
        f"{reason}; expected another of the two"
    )
