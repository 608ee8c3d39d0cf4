"""A client's answer as the reply that the driver gets: as it is, or validated; or a failure."""

from __future__ import annotations

from flwr.app import ArrayRecord, Message

from atoll import flower
from atoll.clients.arrays.coded_uploads import uploaded_bytes
from atoll.clients.arrays.weighted_sum import Structure
from atoll.platform.messages.exchange import Exchange
from atoll.platform.messages.outcome import (
    ClientReply,
    Failure,
    Metrics,
    encodable,
    plain_metrics,
)
from atoll.platform.messages.packing import (
    Parts,
    describe_mismatch,
    malformed,
    pack,
    parts_of,
    structure_of,
)
from atoll.platform.worker.chunk_sum import ChunkSum, not_finite

# Integers up to here are exact; a weight beyond is no count of examples, but makes sums overflow.
LARGEST_WEIGHT = 2.0**53


def receive(
    exchange: Exchange,
    node_id: int,
    place: int,
    answer: object,
    expected: Structure | None,
    chunk_sum: ChunkSum | None,
    request: Message | None = None,
) -> ClientReply | Failure:
    """Return a client's reply, added to the sum where it belongs there, or why it is refused.

    Parameters
    ----------
    exchange : Exchange
        What was sent, and whether replies are validated.
    node_id, place : int
        The client's node, and its place in the chunk.
    answer : object
        What the app returned.
    expected : Structure or None
        What the arrays must be.
    chunk_sum : ChunkSum or None
        The sum of the chunk's replies.
    request : Message, optional
        What a user's app was asked, if it is one.
    """
    if not isinstance(answer, Message) or not answer.metadata.reply_to_message_id:
        kind = type(answer).__name__ if not isinstance(answer, Message) else "one that is no reply"
        reason = f"the client returned {kind}, expected a Message"
        return Failure(reason, flower.RAISED, without_reply=not exchange.checked)
    if request is not None and not exchange.checked:
        problem = flower.problem_with_reply(answer, request)
        if problem is not None:
            reason = f"the client's reply is dropped, as Flower does: {problem}"
            return Failure(reason, flower.RAISED, without_reply=True)
    if answer.has_error():
        said = answer.error.reason
        if exchange.checked:
            said = said or "the client replied with an error"
        return Failure(said and encodable(said), answer.error.code)
    take = _validated if exchange.checked else _as_it_is
    parts = parts_of(answer.content)
    reply = take(exchange, node_id, place, answer, parts, expected, chunk_sum)
    if isinstance(reply, Failure) or request is None or exchange.checked:
        return reply
    return _with_own_metadata(reply, answer, request)


def _with_own_metadata(reply: ClientReply, answer: Message, request: Message) -> ClientReply:
    """Return a reply with the type and the group that the client gave it."""
    given, sent = answer.metadata, request.metadata
    if (given.message_type, given.group_id) == (sent.message_type, sent.group_id):
        return reply
    return reply._replace(message_type=given.message_type, group_id=given.group_id)


def _as_it_is(
    exchange: Exchange,
    node_id: int,
    place: int,
    answer: Message,
    parts: Parts,
    expected: Structure | None,
    chunk_sum: ChunkSum | None,
) -> ClientReply | Failure:
    """Take a reply as the client made it; into the sum only if it can be nowhere else."""
    # RecordDict.array_records would check the type of every record again.
    bytes_up = sum(
        len(array.data)
        for record in answer.content.values()
        if isinstance(record, ArrayRecord)
        for array in record.values()
    )
    metrics = _metrics(parts)
    is_summed = chunk_sum is not None and _can_be_summed(exchange, parts.arrays, metrics, expected)
    if is_summed:
        assert chunk_sum is not None
        problem = _add(chunk_sum, exchange, place, parts.arrays, metrics, bytes_up)
        if problem is not None:
            return Failure(problem, flower.REJECTED, bytes_up=bytes_up)
    return _reply(exchange, node_id, answer, parts, metrics, bytes_up, is_summed=is_summed)


def _validated(
    exchange: Exchange,
    node_id: int,
    place: int,
    answer: Message,
    parts: Parts,
    expected: Structure | None,
    chunk_sum: ChunkSum | None,
) -> ClientReply | Failure:
    arrays, metrics = parts.arrays, _metrics(parts)
    problem = _problem(exchange, arrays, metrics)
    if problem is None and arrays is not None and (exchange.check_finite or chunk_sum is not None):
        problem = malformed(arrays, numbers=exchange.sum_replies)
    if problem is not None:
        return Failure(problem, flower.REJECTED)
    bytes_up = 0
    structure: Structure | None = None
    is_summed = False
    if arrays is not None:
        of_arrays = sum(len(array.data) for array in arrays.values())
        bytes_up = uploaded_bytes(metrics, of_arrays)
        if expected is not None:
            structure = structure_of(arrays)
        is_summed = chunk_sum is not None and structure == expected
    if is_summed:
        assert chunk_sum is not None
        problem = _add(chunk_sum, exchange, place, arrays, metrics, bytes_up)
    elif exchange.check_finite and arrays is not None:
        problem = not_finite(arrays)
    if problem is not None:
        return Failure(problem, flower.REJECTED, bytes_up=bytes_up)
    reply = _reply(exchange, node_id, answer, parts, metrics, bytes_up, is_summed=is_summed)
    if structure is None or expected is None or structure == expected:
        return reply
    return reply._replace(structure=structure, mismatch=describe_mismatch(expected, structure))


def _reply(
    exchange: Exchange,
    node_id: int,
    answer: Message,
    parts: Parts,
    metrics: Metrics | None,
    bytes_up: int,
    *,
    is_summed: bool,
) -> ClientReply:
    return ClientReply(
        metrics,
        parts.metrics_name,
        parts.arrays_name,
        None if is_summed else pack(answer.content),
        is_summed,
        captured=pack(answer.content) if node_id in exchange.captured else None,
        created_at=answer.metadata.created_at,
        ttl=answer.metadata.ttl,
        bytes_up=bytes_up,
    )


def _metrics(parts: Parts) -> Metrics | None:
    return None if parts.metrics is None else plain_metrics(parts.metrics)


def _can_be_summed(
    exchange: Exchange,
    arrays: ArrayRecord | None,
    metrics: Metrics | None,
    expected: Structure | None,
) -> bool:
    return (
        arrays is not None
        and expected is not None
        and structure_of(arrays) == expected
        and _problem(exchange, arrays, metrics) is None
        and _weight(exchange, metrics) > 0.0
        and malformed(arrays, numbers=True) is None
    )


def _add(
    chunk_sum: ChunkSum,
    exchange: Exchange,
    place: int,
    arrays: ArrayRecord | None,
    metrics: Metrics | None,
    bytes_up: int,
) -> str | None:
    assert arrays is not None
    return chunk_sum.add(place, arrays, _weight(exchange, metrics), bytes_up)


def _problem(exchange: Exchange, arrays: ArrayRecord | None, metrics: Metrics | None) -> str | None:
    weighted_by = exchange.weighted_by
    if weighted_by is not None:
        if arrays is None:
            return "the reply must hold exactly one ArrayRecord"
        if metrics is None:
            return "the reply must hold exactly one MetricRecord"
        weight = metrics.get(weighted_by)
        if isinstance(weight, list) or weight is None:
            return f"the reply's metrics must hold a number {weighted_by!r}, got {weight!r}"
        if not 0.0 <= weight <= LARGEST_WEIGHT:
            return (
                f"the reply's {weighted_by!r} is {weight!r}, expected a finite number >= 0, at "
                f"most {LARGEST_WEIGHT:g}"
            )
    return None


def _weight(exchange: Exchange, metrics: Metrics | None) -> float:
    assert metrics is not None
    assert exchange.weighted_by is not None
    weight = metrics[exchange.weighted_by]
    assert not isinstance(weight, list)
    return float(weight)
