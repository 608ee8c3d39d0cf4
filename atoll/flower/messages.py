"""Flower's messages, built and read where its public API cannot do it.

An instruction message reads a process-wide ``TaskIdentity``, and its metadata cannot be set.
"""

from __future__ import annotations

import importlib
import time
from collections.abc import Iterable
from typing import Any

from flwr.app import ArrayRecord, Context, Error, Message, Metadata, RecordDict
from flwr.clientapp.typing import ClientAppCallable as ClientAppCallable
from flwr.common.constant import MESSAGE_TTL_TOLERANCE, SUPERLINK_NODE_ID, ErrorCode
from flwr.common.serde import recorddict_from_proto, recorddict_to_proto
from flwr.proto.recorddict_pb2 import RecordDict as ProtoRecordDict
from flwr.supercore.constant import SYSTEM_MESSAGE_TYPE
from flwr.supercore.task_identity import TaskIdentity

from atoll.flower.arrays import array_of, array_record
from atoll.flower.record_text import MARK, dump_as_text, load_from_text

RUN_ID = 1
TASK_ID = 1

UNKNOWN = ErrorCode.UNKNOWN
# What apps may look for in the text of Flower's error.
RUN_CONFIG_CHANGED = (
    "ValueError: The `run_config` field of the `Context` object cannot be modified "
    f"(run_id: {RUN_ID})."
)

RAISED = ErrorCode.CLIENT_APP_RAISED_EXCEPTION
MESSAGE_UNAVAILABLE = ErrorCode.MESSAGE_UNAVAILABLE
CRASHED = ErrorCode.CLIENT_APP_CRASHED
UNAVAILABLE = ErrorCode.NODE_UNAVAILABLE
PRECONDITION_FAILED = ErrorCode.MOD_FAILED_PRECONDITION
REJECTED = ErrorCode.REPLY_MESSAGE_UNAVAILABLE


def assume_identity(node_id: int = SUPERLINK_NODE_ID) -> None:
    """Give this process the identity that ``Message(...)`` reads.

    Parameters
    ----------
    node_id : int
        The node that the process speaks for; the server by default.
    """
    TaskIdentity.run_id = RUN_ID
    TaskIdentity.task_id = TASK_ID
    TaskIdentity.node_id = node_id


def speak_for(node_id: int) -> None:
    """Make messages of this process come from ``node_id``."""
    TaskIdentity.node_id = node_id


def address(message: Message) -> tuple[int, str, str, float]:
    """Return a message's node, type, group and time to live."""
    # Each property of Metadata costs a call and a cast; there is a message per client.
    fields = vars(message.metadata)
    return (
        int(fields["_dst_node_id"]),
        fields["_message_type"],
        fields["_group_id"],
        fields["_ttl"],
    )


def is_sendable(message: Message) -> bool:
    """Tell whether a message may be pushed: it is no reply, is valid, and was not sent before."""
    fields = vars(message.metadata)
    return (
        fields["_reply_to_message_id"] == ""
        and fields["_ttl"] > 0
        and message.metadata.delivered_at == ""
    )


def expiry(message: Message) -> float:
    """Return when a message and its reply cease to be valid (Unix time)."""
    fields = vars(message.metadata)
    return float(fields["_created_at"] + fields["_ttl"])


def set_delivered(messages: Iterable[Message], moment: str) -> None:
    """Note when messages were handed over (an ISO date)."""
    for message in messages:
        message.metadata.delivered_at = moment


def unavailable_reply(message_id: str) -> Message:
    """Return Flower's answer to a question for the reply of a message that is not there."""
    metadata = Metadata(
        run_id=RUN_ID,
        message_id=f"{message_id}-unavailable",
        src_node_id=SUPERLINK_NODE_ID,
        dst_node_id=SUPERLINK_NODE_ID,
        reply_to_message_id=message_id,
        group_id="",
        created_at=time.time(),
        ttl=0,
        message_type=SYSTEM_MESSAGE_TYPE,
    )
    metadata.delivered_at = ""
    # It takes a second to import, and few apps ever see it.
    texts = importlib.import_module("flwr.server.superlink.linkstate.utils")
    error = Error(MESSAGE_UNAVAILABLE, texts.MESSAGE_UNAVAILABLE_ERROR_REASON)
    return Message(error=error, metadata=metadata)  # type: ignore[call-overload, no-any-return]


def with_records(records: RecordDict, replacements: dict[str, Any]) -> RecordDict:
    """Return ``records`` with other records under the same names."""
    copy = records.copy()
    # Assigning records one by one would check each one's type again, for every client.
    copy.__dict__["_data"] = replacements
    return copy


def set_message_id(message: Message, message_id: str) -> None:
    """Set the id of an instruction message, as Flower's own grids do when they push it."""
    message.metadata.__dict__["_message_id"] = message_id


class InstructionTemplate:
    """Makes the instruction messages of one kind; only node, id and content differ.

    Parameters
    ----------
    message_type, group_id, ttl, created_at, delivered_at
        As in Flower's ``Metadata``; the message type is validated here, once.
    """

    def __init__(
        self, message_type: str, group_id: str, ttl: float, created_at: float, delivered_at: str
    ) -> None:
        metadata = Metadata(
            run_id=RUN_ID,
            message_id="",
            src_node_id=SUPERLINK_NODE_ID,
            dst_node_id=0,
            reply_to_message_id="",
            group_id=group_id,
            created_at=created_at,
            ttl=ttl,
            message_type=message_type,
            src_task_id=TASK_ID,
            dst_task_id=None,
        )
        metadata.delivered_at = delivered_at
        self._fields = vars(metadata)
        self.category = message_type.partition(".")[0]

    def message(self, content: RecordDict, node_id: int, message_id: str) -> Message:
        """Return the message that the server sent to ``node_id``."""
        # Constructing Metadata and Message costs more than most of what a no-op client does.
        metadata = Metadata.__new__(Metadata)
        metadata.__dict__.update(self._fields, _dst_node_id=node_id, _message_id=message_id)
        message = Message.__new__(Message)
        message.__dict__.update(_metadata=metadata, _content=content, _error=None)
        return message


def problem_with_reply(answer: Message, request: Message) -> str | None:
    """Return why Flower's grids would drop a client's answer to a request; None if they do not.

    A client may set what it likes in its answer's metadata.
    """
    given, sent = answer.metadata, request.metadata
    expires = given.created_at + given.ttl
    if given.reply_to_message_id != sent.message_id:
        return f"it answers the message {given.reply_to_message_id!r}"
    if (given.src_node_id, given.dst_node_id) != (sent.dst_node_id, sent.src_node_id):
        return f"it goes from node {given.src_node_id} to node {given.dst_node_id}"
    if given.delivered_at != "":
        return f"it was delivered at {given.delivered_at!r}"
    if given.message_type == "":
        return "it has no message type"
    if answer.has_content() == answer.has_error():
        return "it has neither a content nor an error"
    if given.ttl <= 0 or expires <= time.time():
        return "its time to live has passed"
    if expires - sent.created_at - sent.ttl > MESSAGE_TTL_TOLERANCE:
        return "it lives longer than the message that it answers"
    return None


def reply(
    request: Message,
    body: RecordDict | Error,
    reply_id: str,
    *,
    created_at: float = 0.0,
    ttl: float = 0.0,
    message_type: str | None = None,
    group_id: str | None = None,
) -> Message:
    """Build the reply of the node that ``request`` went to.

    Parameters
    ----------
    created_at, ttl : float
        When the client made it, and how long it is valid; by default now, and as long as the
        request is.
    message_type, group_id : str, optional
        By default the request's.
    """
    sent = request.metadata
    created_at = created_at or time.time()
    metadata = Metadata(
        run_id=sent.run_id,
        message_id=reply_id,
        src_node_id=sent.dst_node_id,
        dst_node_id=sent.src_node_id,
        reply_to_message_id=sent.message_id,
        group_id=sent.group_id if group_id is None else group_id,
        created_at=created_at,
        ttl=ttl or max(0.0, sent.created_at + sent.ttl - created_at),
        message_type=sent.message_type,
        src_task_id=None,
        dst_task_id=sent.src_task_id,
    )
    metadata.delivered_at = ""
    if message_type is not None:
        # Its setter would refuse a type of the client's own.
        vars(metadata)["_message_type"] = message_type
    if isinstance(body, Error):
        return Message(error=body, metadata=metadata)  # type: ignore[call-overload, no-any-return]
    return Message(content=body, metadata=metadata)  # type: ignore[call-overload, no-any-return]


def server_context(run_config: dict[str, Any]) -> Context:
    """Return the ``Context`` that a ServerApp is called with."""
    return Context(
        run_id=RUN_ID,
        node_id=SUPERLINK_NODE_ID,
        node_config={},
        state=RecordDict(),
        run_config=run_config,
    )


def dump_records(records: RecordDict) -> bytes:
    """Serialise a ``RecordDict`` to bytes (no pickle: loading runs no code).

    Those of protobuf, or where it cannot hold a value a text.
    """
    try:
        return _dump_as_protobuf(records)
    except (ValueError, TypeError):
        return dump_as_text(records)


def _dump_as_protobuf(records: RecordDict) -> bytes:
    proto = ProtoRecordDict()
    for name, record in records.items():
        if not isinstance(record, ArrayRecord):
            proto.items.extend(recorddict_to_proto(RecordDict({name: record})).items)
            continue
        # Flower's own conversion copies the bytes of an array into four messages, one in another.
        item = proto.items.add(key=name)
        item.array_record.SetInParent()
        for key, array in record.items():
            value = item.array_record.items.add(key=key).value
            value.dtype, value.stype, value.data = array.dtype, array.stype, array.data
            value.shape.extend(array.shape)
    return bytes(proto.SerializeToString(deterministic=True))


def load_records(data: bytes) -> RecordDict:
    """Read what :func:`dump_records` wrote."""
    if data.startswith(MARK):
        return load_from_text(data)
    records = RecordDict()
    for item in ProtoRecordDict.FromString(data).items:
        if item.WhichOneof("value") != "array_record":
            records.update(recorddict_from_proto(ProtoRecordDict(items=[item])))
            continue
        protos = {each.key: each.value for each in item.array_record.items}
        records[item.key] = array_record(
            {k: array_of(p.dtype, tuple(p.shape), p.stype, p.data) for k, p in protos.items()}
        )
    return records
