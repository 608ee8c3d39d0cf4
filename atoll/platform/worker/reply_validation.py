"""A client's reply on its way into the outcome or the sum: as it is, or validated."""

from __future__ import annotations

from flwr.app import ArrayRecord, Message, RecordDict

from atoll import flower
from atoll.clients.arrays.weighted_sum import Structure
from atoll.platform.messages.exchange import Exchange, Outcome, plain_metrics
from atoll.platform.messages.packing import (
    Parts,
    describe_mismatch,
    first_not_finite,
    malformed,
    pack,
    parts_of,
    structure_of,
)
from atoll.platform.worker.chunk_sum import ChunkSum

# Integers up to here are exact; a weight beyond is no count of examples, but makes sums overflow.
LARGEST_WEIGHT = 2.0**53


def receive(
    exchange: Exchange,
    outcome: Outcome,
    answer: object,
    expected: Structure | None,
    chunk_sum: ChunkSum | None,
) -> None:
    """Put a client's reply into ``outcome``, or into the sum where it belongs.

    Parameters
    ----------
    exchange : Exchange
        What was sent, and whether replies are validated.
    outcome : Outcome
        The client's; a reply that is an error, or is refused, turns it into one.
    answer : object
        What the app returned.
    expected : Structure or None
        What the arrays must be.
    chunk_sum : ChunkSum or None
        The sum of the chunk's replies.
    """
    if not isinstance(answer, Message) or not answer.metadata.reply_to_message_id:
        kind = type(answer).__name__ if not isinstance(answer, Message) else "one that is no reply"
        outcome.fail(f"the client returned {kind}, expected a Message", flower.RAISED)
        outcome.without_reply = not exchange.checked
        return
    if answer.has_error():
        reason = answer.error.reason
        if exchange.checked:
            reason = reason or "the client replied with an error"
        outcome.fail(reason, answer.error.code)
        return
    outcome.created_at, outcome.ttl = answer.metadata.created_at, answer.metadata.ttl
    parts = parts_of(answer.content)
    if outcome.node_id in exchange.captured:
        outcome.captured = pack(answer.content)
    if parts.metrics is not None:
        outcome.metrics = plain_metrics(parts.metrics)
    if exchange.checked:
        _validate(exchange, outcome, answer.content, parts, expected, chunk_sum)
    else:
        _take(exchange, outcome, answer.content, parts, expected, chunk_sum)


def _take(
    exchange: Exchange,
    outcome: Outcome,
    content: RecordDict,
    parts: Parts,
    expected: Structure | None,
    chunk_sum: ChunkSum | None,
) -> None:
    """Take a reply as the client made it; into the sum only if it can be nowhere else."""
    outcome.arrays_name, outcome.metrics_name = parts.arrays_name, parts.metrics_name
    outcome.bytes_up = sum(
        len(array.data) for record in content.array_records.values() for array in record.values()
    )
    if chunk_sum is not None and _can_be_summed(exchange, outcome, parts.arrays, expected):
        assert parts.arrays is not None
        chunk_sum.add(outcome, parts.arrays, _weight(exchange, outcome))
    else:
        outcome.records = pack(content)


def _can_be_summed(
    exchange: Exchange, outcome: Outcome, arrays: ArrayRecord | None, expected: Structure | None
) -> bool:
    return (
        arrays is not None
        and expected is not None
        and structure_of(arrays) == expected
        and _problem(exchange, arrays, outcome) is None
        and _weight(exchange, outcome) > 0.0
        and malformed(arrays, numbers=True) is None
    )


def _validate(
    exchange: Exchange,
    outcome: Outcome,
    content: RecordDict,
    parts: Parts,
    expected: Structure | None,
    chunk_sum: ChunkSum | None,
) -> None:
    arrays = parts.arrays
    problem = _problem(exchange, arrays, outcome)
    if problem is None and arrays is not None and (exchange.check_finite or chunk_sum is not None):
        problem = malformed(arrays, numbers=exchange.sum_replies)
    if problem is not None:
        outcome.fail(problem, flower.REJECTED)
        return
    outcome.arrays_name, outcome.metrics_name = parts.arrays_name, parts.metrics_name
    if arrays is not None:
        outcome.bytes_up = sum(len(array.data) for array in arrays.values())
        if expected is not None:
            structure = structure_of(arrays)
            if structure != expected:
                outcome.structure = structure
                outcome.mismatch = describe_mismatch(expected, structure)
        if chunk_sum is not None and outcome.mismatch is None:
            chunk_sum.add(outcome, arrays, _weight(exchange, outcome))
            return
    key = first_not_finite(arrays) if exchange.check_finite and arrays is not None else None
    if key is not None:
        outcome.fail(f"NaN or infinite values in {key!r}", flower.REJECTED)
        return
    outcome.records = pack(content)


def _problem(exchange: Exchange, arrays: ArrayRecord | None, outcome: Outcome) -> str | None:
    weighted_by = exchange.weighted_by
    if weighted_by is not None:
        if arrays is None:
            return "the reply must hold exactly one ArrayRecord"
        if outcome.metrics is None:
            return "the reply must hold exactly one MetricRecord"
        weight = outcome.metrics.get(weighted_by)
        if isinstance(weight, list) or weight is None:
            return f"the reply's metrics must hold a number {weighted_by!r}, got {weight!r}"
        if not 0.0 <= weight <= LARGEST_WEIGHT:
            return (
                f"the reply's {weighted_by!r} is {weight!r}, expected a finite number >= 0, at "
                f"most {LARGEST_WEIGHT:g}"
            )
    return None


def _weight(exchange: Exchange, outcome: Outcome) -> float:
    assert outcome.metrics is not None
    assert exchange.weighted_by is not None
    weight = outcome.metrics[exchange.weighted_by]
    assert not isinstance(weight, list)
    return float(weight)
