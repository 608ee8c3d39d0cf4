"""Outcomes as the replies that a strategy gets."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

from flwr.app import Error, Message, MetricRecord, RecordDict

from atoll import flower
from atoll.clients.arrays.weighted_sum import WeightedSum, mean_metrics
from atoll.platform.grid.exchange.cohort_sums import added_to_sum
from atoll.platform.messages.exchange import Exchange
from atoll.platform.messages.outcome import ClientReply, Metrics, Outcome
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
        outcomes = _with_common_metrics(outcomes)
    for request, outcome in zip(requests, outcomes, strict=True):
        reply = reply_of(request, outcome, checked=exchange.checked)
        if reply is not None:
            replies.append(reply)
    return replies


def reply_of(request: Message, outcome: Outcome, *, checked: bool) -> Message | None:
    """Return a client's own reply; None if it is in the sum.

    Of a client without a reply Flower's grids say nothing; an exchange with checks says why.
    """
    failure, reply = outcome.failure, outcome.reply
    if failure is not None:
        if failure.without_reply and not checked:
            return None
        error = Error(code=failure.code, reason=failure.reason)
        return flower.reply(request, error, _reply_id(request))
    if reply is None or reply.records is None:
        return None
    return flower.reply(
        request,
        unpack(reply.records),
        _reply_id(request),
        created_at=reply.created_at,
        ttl=reply.ttl,
        message_type=reply.message_type,
        group_id=reply.group_id,
    )


def settle_mismatches(
    outcomes: list[Outcome], exchange: Exchange, total: WeightedSum, *, strict: bool
) -> list[Outcome]:
    """Refuse updates that differ from what went out, or from the majority if all of them do.

    Parameters
    ----------
    outcomes : list[Outcome]
        What became of each message.
    exchange : Exchange
        What was sent.
    total : WeightedSum
        Takes the majority's updates where replies are summed.
    strict : bool
        Whether updates must match what went out even if none does.

    Returns
    -------
    list[Outcome]
        The outcomes, with failures in place of updates that are refused.
    """
    replies = [outcome.reply for outcome in outcomes if outcome.reply is not None]
    odd = [reply for reply in replies if reply.mismatch is not None]
    if not odd:
        return outcomes
    if strict or len(odd) < len(replies):
        return [_refused_if_odd(outcome) for outcome in outcomes]
    if exchange.weighted_by is None:
        return outcomes
    usual = Counter(reply.structure for reply in odd).most_common(1)[0][0]
    settled = []
    for outcome in outcomes:
        reply = outcome.reply
        if reply is None:
            settled.append(outcome)
        elif reply.structure != usual:
            reason = f"{reply.mismatch} (most replies agree otherwise)"
            settled.append(outcome.refused(reason, flower.REJECTED))
        elif exchange.sum_replies:
            usual_one = outcome._replace(result=reply._replace(mismatch=None))
            settled.append(added_to_sum(total, usual_one, exchange))
        else:
            settled.append(outcome)
    return settled


def _refused_if_odd(outcome: Outcome) -> Outcome:
    reply = outcome.reply
    if reply is None or reply.mismatch is None:
        return outcome
    return outcome.refused(reply.mismatch, flower.REJECTED)


def _reply_id(request: Message) -> str:
    return f"{request.metadata.message_id}-reply"


def _mean_replies(
    requests: list[Message], outcomes: list[Outcome], exchange: Exchange, total: WeightedSum
) -> list[Message]:
    """Return the reply that stands for those that were summed.

    Without checks, replies whose metrics differ are not made alike: the strategy gets a reply for
    each kind, and refuses them as it would refuse all of them.
    """
    summed = [
        (request, outcome.reply)
        for request, outcome in zip(requests, outcomes, strict=True)
        if outcome.reply is not None and outcome.reply.is_summed
    ]
    if not summed or total.weight == 0.0:
        return []
    if exchange.checked:
        rows = _common_metrics([reply.metrics for _, reply in summed])
        return [_mean_reply(*summed[0], rows, exchange, total)]
    groups: dict[tuple[str, str, frozenset[Any]], list[tuple[Message, ClientReply]]] = {}
    for request, reply in summed:
        kind = reply.arrays_name, reply.metrics_name, _kinds(reply.metrics or {})
        groups.setdefault(kind, []).append((request, reply))
    return [
        _mean_reply(*group[0], [reply.metrics or {} for _, reply in group], exchange, total)
        for group in groups.values()
    ]


def _mean_reply(
    request: Message,
    first: ClientReply,
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


def _common_names(rows: Sequence[Metrics]) -> frozenset[str] | None:
    """Return the metrics that every reply has alike, or None if that is all of them.

    Strategies average metrics over all replies. Alike are numbers, and lists of one length.
    """
    kinds = {_kinds(row) for row in rows}
    if len(kinds) <= 1:
        return None
    return frozenset(name for name, _ in frozenset.intersection(*kinds))


def _common_metrics(metrics: Iterable[Metrics | None]) -> list[Metrics]:
    """Return replies' metrics without those that not every reply has alike."""
    rows = [row for row in metrics if row is not None]
    common = _common_names(rows)
    return rows if common is None else [_only(row, common) for row in rows]


def _with_common_metrics(outcomes: list[Outcome]) -> list[Outcome]:
    """Return outcomes whose content lacks the metrics that not every reply has alike."""
    common = _common_names([o.metrics for o in outcomes if o.metrics is not None])
    if common is None:
        return outcomes
    return [_with_metrics(outcome, common) for outcome in outcomes]


def _with_metrics(outcome: Outcome, names: frozenset[str]) -> Outcome:
    reply = outcome.reply
    if reply is None or reply.metrics is None or reply.records is None:
        return outcome
    records = tuple(
        (name, kind, _only(body, names) if kind is MetricRecord else body)
        for name, kind, body in reply.records.records
    )
    return outcome._replace(
        result=reply._replace(records=PackedRecords(records, reply.records.kind))
    )


def _kinds(metrics: Metrics) -> frozenset[tuple[str, int | None]]:
    """Return the names of metrics, each with the length of its list."""
    return frozenset(
        (name, len(value) if isinstance(value, list) else None) for name, value in metrics.items()
    )


def _only(metrics: Metrics, names: frozenset[str]) -> Metrics:
    return {name: value for name, value in metrics.items() if name in names}
