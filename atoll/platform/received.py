"""What a client's reply must be to count."""

from __future__ import annotations

from flwr.app import ArrayRecord, Message

from atoll.clients.weighted_sum import Structure
from atoll.platform import flower
from atoll.platform.chunk_sum import ChunkSum
from atoll.platform.content import (
    describe_mismatch,
    first_not_finite,
    malformed,
    pack,
    parts_of,
    structure_of,
)
from atoll.platform.exchange import Exchange, Outcome, plain_metrics

# Integers up to here are exact; a weight beyond is no count of examples, but makes sums overflow.
LARGEST_WEIGHT = 2.0**53


def accept(
    exchange: Exchange,
    outcome: Outcome,
    answer: object,
    expected: Structure | None,
    chunk_sum: ChunkSum | None,
) -> None:
    """Check a client's reply and put it into ``outcome``, or into the sum where it belongs."""
    if not isinstance(answer, Message):
        outcome.fail(
            f"the client returned {type(answer).__name__}, expected a Message", flower.RAISED
        )
        return
    if answer.has_error():
        outcome.fail(answer.error.reason or "the client replied with an error", answer.error.code)
        return
    parts = parts_of(answer.content)
    arrays = parts.arrays
    if outcome.node_id in exchange.captured:
        outcome.captured = pack(answer.content)
    if parts.metrics is not None:
        outcome.metrics = plain_metrics(parts.metrics)
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
    outcome.records = pack(answer.content)


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
