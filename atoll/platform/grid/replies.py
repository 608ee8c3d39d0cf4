"""Outcomes as the replies that a strategy gets."""

from __future__ import annotations

from collections import Counter
from typing import Any

from flwr.app import Error, Message, MetricRecord, RecordDict

from atoll import flower
from atoll.clients.arrays.weighted_sum import WeightedSum, mean_metrics
from atoll.platform.grid.cohort import add_to_sum
from atoll.platform.messages.exchange import Exchange, Metrics, Outcome
from atoll.platform.messages.packing import PackedRecords, unpack


def replies_of(
    requests: list[Message], outcomes: list[Outcome], exchange: Exchange, total: WeightedSum
) -> list[Message]:
    """Return the replies to ``requests``, in their order.

    Where replies were summed, the first stands for all of them: it holds their weighted mean and
    the sum of their weights, so a strategy's weighted mean of the replies is that mean.

    Parameters
    ----------
    requests, outcomes : list
        The exchange's messages and what became of each.
    exchange : Exchange
        What was sent.
    total : WeightedSum
        The sum of the replies, where they were summed.
    """
    replies = []
    if exchange.sum_replies:
        replies += _mean_replies(requests, outcomes, exchange, total)
    elif exchange.checked and exchange.weighted_by is not None:
        _keep_common_metrics(outcomes)
    for request, outcome in zip(requests, outcomes, strict=True):
        reply = reply_of(request, outcome, checked=exchange.checked)
        if reply is not None:
            replies.append(reply)
    return replies


def reply_of(request: Message, outcome: Outcome, *, checked: bool) -> Message | None:
    """Return a client's own reply; None if it is in the sum.

    Of a client without a reply Flower's grids say nothing; an exchange with checks says why.
    """
    if outcome.without_reply and not checked:
        return None
    if outcome.status == "error":
        error = Error(code=outcome.code, reason=outcome.reason)
        return flower.reply(request, error, _reply_id(request))
    if outcome.records is None:
        return None
    return flower.reply(
        request,
        unpack(outcome.records),
        _reply_id(request),
        created_at=outcome.created_at,
        ttl=outcome.ttl,
    )


def settle_mismatches(
    outcomes: list[Outcome], exchange: Exchange, total: WeightedSum, *, strict: bool
) -> None:
    """Refuse updates that differ from what went out, or from the majority if all of them do.

    Parameters
    ----------
    outcomes : list[Outcome]
        Changed in place.
    exchange : Exchange
        What was sent.
    total : WeightedSum
        Takes the majority's updates where replies are summed.
    strict : bool
        Whether updates must match what went out even if none does.
    """
    odd = [o for o in outcomes if o.status == "ok" and o.mismatch is not None]
    if not odd:
        return
    if strict or any(o.status == "ok" and o.mismatch is None for o in outcomes):
        for outcome in odd:
            outcome.fail(outcome.mismatch or "", flower.REJECTED)
        return
    if exchange.weighted_by is None:
        return
    usual = Counter(o.structure for o in odd).most_common(1)[0][0]
    for outcome in odd:
        if outcome.structure != usual:
            outcome.fail(f"{outcome.mismatch} (most replies agree otherwise)", flower.REJECTED)
        elif exchange.sum_replies:
            outcome.mismatch = None
            add_to_sum(total, outcome, exchange)


def _reply_id(request: Message) -> str:
    return f"{request.metadata.message_id}-reply"


def _mean_replies(
    requests: list[Message], outcomes: list[Outcome], exchange: Exchange, total: WeightedSum
) -> list[Message]:
    """Return the reply that stands for those that were summed.

    Without checks, replies whose metrics differ are not made alike: the strategy gets a reply for
    each kind, and refuses them as it would refuse all of them.
    """
    summed = [(r, o) for r, o in zip(requests, outcomes, strict=True) if o.summed]
    if not summed or total.weight == 0.0:
        return []
    if exchange.checked:
        rows = _keep_common_metrics([outcome for _, outcome in summed])
        return [_mean_reply(*summed[0], rows, exchange, total)]
    groups: dict[tuple[str, str, frozenset[Any]], list[tuple[Message, Outcome]]] = {}
    for request, outcome in summed:
        kind = outcome.arrays_name, outcome.metrics_name, _kinds(outcome.metrics or {})
        groups.setdefault(kind, []).append((request, outcome))
    return [
        _mean_reply(*group[0], [o.metrics or {} for _, o in group], exchange, total)
        for group in groups.values()
    ]


def _mean_reply(
    request: Message,
    first: Outcome,
    rows: list[Any],
    exchange: Exchange,
    total: WeightedSum,
) -> Message:
    assert exchange.weighted_by is not None
    metrics: Metrics = {exchange.weighted_by: sum(row[exchange.weighted_by] for row in rows)}
    metrics.update(mean_metrics(rows, exchange.weighted_by))
    content = RecordDict(
        {first.arrays_name: total.mean(), first.metrics_name: MetricRecord(metrics)}
    )
    return flower.reply(request, content, _reply_id(request))


def _keep_common_metrics(outcomes: list[Outcome]) -> list[Metrics]:
    """Leave out metrics that not every reply has alike: strategies average them over all replies.

    Alike are numbers, and lists of one length. The outcomes keep all of them, for the ledger.

    Returns
    -------
    list[Metrics]
        What is left, of each outcome that has metrics.
    """
    replied = [outcome for outcome in outcomes if outcome.metrics is not None]
    kinds = {_kinds(outcome.metrics or {}) for outcome in replied}
    if len(kinds) <= 1:
        return [outcome.metrics or {} for outcome in replied]
    common = frozenset(name for name, _ in frozenset.intersection(*kinds))
    for outcome in replied:
        if outcome.records is not None:
            outcome.records = PackedRecords(
                tuple(
                    (name, kind, _only(body, common) if kind is MetricRecord else body)
                    for name, kind, body in outcome.records.records
                )
            )
    return [_only(outcome.metrics or {}, common) for outcome in replied]


def _kinds(metrics: Metrics) -> frozenset[tuple[str, int | None]]:
    """Return the names of metrics, each with the length of its list."""
    return frozenset(
        (name, len(value) if isinstance(value, list) else None) for name, value in metrics.items()
    )


def _only(metrics: Metrics, names: frozenset[str]) -> Metrics:
    return {name: value for name, value in metrics.items() if name in names}
