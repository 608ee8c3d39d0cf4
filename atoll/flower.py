"""The one place that touches Flower's internals.

Flower's public API cannot build messages outside its own runtimes: an instruction message reads a
process-wide ``TaskIdentity`` and its metadata cannot be set. Everything that depends on such
internals is here, so that a new Flower that moves them fails in one module (and in its tests).
Written against flwr 1.42; 1.41 has the same.
"""

from __future__ import annotations

import importlib
import logging
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from flwr.app import (
    Array,
    ArrayRecord,
    ConfigRecord,
    Context,
    Error,
    Message,
    Metadata,
    RecordDict,
)
from flwr.common.constant import SUPERLINK_NODE_ID, ErrorCode
from flwr.common.serde import recorddict_from_proto, recorddict_to_proto
from flwr.proto.recorddict_pb2 import RecordDict as ProtoRecordDict
from flwr.serverapp.strategy import FedAvg, Result, Strategy
from flwr.serverapp.strategy.strategy_utils import (
    aggregate_metricrecords,
    log_strategy_start_info,
)
from flwr.supercore.constant import DEFAULT_SIMULATION_CONFIG, SYSTEM_MESSAGE_TYPE
from flwr.supercore.run import Run
from flwr.supercore.task_identity import TaskIdentity
from flwr.supercore.utils import get_flwr_home
from numpy.typing import NDArray

from atoll.clients.arrays.conversion import quickly_decoded, quickly_encoded

flower_logger = logging.getLogger("flwr")

RUN_ID = 1
TASK_ID = 1

UNKNOWN = ErrorCode.UNKNOWN
# What apps may look for in the text of Flower's error.
RUN_CONFIG_CHANGED = (
    "ValueError: The `run_config` field of the `Context` object cannot be modified "
    f"(run_id: {RUN_ID})."
)
# Nodes of a simulation that nobody has said a number for.
DEFAULT_SUPERNODES = int(DEFAULT_SIMULATION_CONFIG.num_supernodes)

RAISED = ErrorCode.CLIENT_APP_RAISED_EXCEPTION
MESSAGE_UNAVAILABLE = ErrorCode.MESSAGE_UNAVAILABLE
CRASHED = ErrorCode.CLIENT_APP_CRASHED
UNAVAILABLE = ErrorCode.NODE_UNAVAILABLE
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


def config_file() -> Path:
    """Return where Flower's configuration file is, if there is one."""
    return Path(get_flwr_home()) / "config.toml"


_STOCK_NUMPY = Array.numpy
_STOCK_FROM_NUMPY: Callable[..., Array] = vars(Array)["from_numpy_ndarray"].__func__


def convert_arrays_quickly() -> None:
    """Make this process's conversions between ``Array`` and NumPy (so PyTorch too) cost one copy.

    Flower writes and reads each array as a .npy file, which costs a small model more than the copy
    of its values. Types, bytes and errors stay as they are: whatever is no plain array of numbers
    is left to Flower's own methods.
    """
    quick: dict[str, Any] = {
        "numpy": _numpy,
        "from_numpy_ndarray": classmethod(_from_numpy_ndarray),
    }
    for name, method in quick.items():
        setattr(Array, name, method)


def _numpy(array: Array) -> NDArray[Any]:
    values = quickly_decoded(array)
    return _STOCK_NUMPY(array) if values is None else values


def _from_numpy_ndarray(cls: type[Array], ndarray: NDArray[Any]) -> Array:
    array = quickly_encoded(ndarray)
    return _STOCK_FROM_NUMPY(cls, ndarray) if array is None else array


def new_run() -> Run:
    """Return the ``Run`` that a :class:`~flwr.serverapp.Grid` of ours reports."""
    return Run.create_empty(RUN_ID)


def app_run(fab_id: str, version: str, fab_hash: str, overrides: dict[str, Any]) -> Run:
    """Return the ``Run`` of an app.

    Parameters
    ----------
    fab_id : str
        ``publisher/name``.
    version : str
        The app's version.
    fab_hash : str
        The SHA-256 of its bundle, or empty.
    overrides : dict
        What the user has changed of its run config.
    """
    run = new_run()
    run.fab_id, run.fab_version, run.override_config = fab_id, version, dict(overrides)
    run.fab_hash = fab_hash
    return run


def speak_for(node_id: int) -> None:
    """Make messages of this process come from ``node_id``."""
    TaskIdentity.node_id = node_id


def address(message: Message) -> tuple[int, str, str, float]:
    """Return a message's node, type, group and time to live."""
    # Each property of Metadata costs a call and a cast; there is a message per client.
    fields = vars(message.metadata)
    return (
        fields["_dst_node_id"],
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


def averages_metrics_as_flower_does(strategy: FedAvg) -> bool:
    """Tell whether training metrics are averaged by Flower's default, by weight."""
    return strategy.train_metrics_aggr_fn is aggregate_metricrecords


def checks_replies_as_flower_does(strategy: FedAvg) -> bool:
    """Tell whether replies are checked by Flower's own method."""
    return type(strategy)._check_and_log_replies is FedAvg._check_and_log_replies


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


def reply(
    request: Message,
    body: RecordDict | Error,
    reply_id: str,
    *,
    created_at: float = 0.0,
    ttl: float = 0.0,
) -> Message:
    """Build the reply of the node that ``request`` went to.

    Parameters
    ----------
    created_at, ttl : float
        When the client made it, and how long it is valid; by default now, and as long as the
        request is.
    """
    sent = request.metadata
    created_at = created_at or time.time()
    metadata = Metadata(
        run_id=sent.run_id,
        message_id=reply_id,
        src_node_id=sent.dst_node_id,
        dst_node_id=sent.src_node_id,
        reply_to_message_id=sent.message_id,
        group_id=sent.group_id,
        created_at=created_at,
        ttl=ttl or max(0.0, sent.created_at + sent.ttl - created_at),
        message_type=sent.message_type,
        src_task_id=None,
        dst_task_id=sent.src_task_id,
    )
    metadata.delivered_at = ""
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
    """Serialise a ``RecordDict`` to protobuf bytes (no pickle: loading runs no code)."""
    return bytes(recorddict_to_proto(records).SerializeToString(deterministic=True))


def load_records(data: bytes) -> RecordDict:
    """Read what :func:`dump_records` wrote."""
    return recorddict_from_proto(ProtoRecordDict.FromString(data))


@contextmanager
def reply_counts(results: int, failures: int) -> Iterator[None]:
    """Within this context Flower logs these numbers of replies.

    Where workers add up replies, a strategy gets one reply that stands for all of them.
    """

    def correct(record: logging.LogRecord) -> bool:
        if str(record.msg).startswith("%s: Received") and isinstance(record.args, tuple):
            record.args = (record.args[0], results, failures)
        return True

    flower_logger.addFilter(correct)
    try:
        yield
    finally:
        flower_logger.removeFilter(correct)


def log_start(
    strategy: Strategy,
    num_rounds: int,
    arrays: ArrayRecord,
    train_config: ConfigRecord | None,
    evaluate_config: ConfigRecord | None,
) -> None:
    """Log what Flower logs when a strategy starts, and have the strategy sum itself up."""
    flower_logger.info("Starting %s strategy:", type(strategy).__name__)
    log_strategy_start_info(num_rounds, arrays, train_config, evaluate_config)
    strategy.summary()
    flower_logger.info("")


def log_result(result: Result, seconds: float) -> None:
    """Log what Flower logs when a strategy has ended."""
    flower_logger.info("")
    flower_logger.info("Strategy execution finished in %.2fs", seconds)
    flower_logger.info("")
    flower_logger.info("Final results:")
    flower_logger.info("")
    for line in str(result).splitlines():
        flower_logger.info("\t%s", line)
    flower_logger.info("")


def log_metrics(metrics: object, label: str = "Aggregated MetricRecord") -> None:
    """Log the metrics of a round as Flower does."""
    flower_logger.info("\t└──> %s: %s", label, metrics)


def overrides_start(strategy: Strategy) -> bool:
    """Tell whether ``strategy`` has a round loop of its own."""
    return type(strategy).start is not Strategy.start


@contextmanager
def route_start_to(loop: Callable[..., Result]) -> Iterator[None]:
    """Within this context ``Strategy.start`` is ``loop``: apps get it without being changed.

    A strategy that overrides ``start`` keeps its own; its ``super().start(...)`` is routed.
    """
    stock = Strategy.start

    # A plain function, so that it binds the strategy as a method does.
    def start(strategy: Strategy, *arguments: Any, **named: Any) -> Result:
        return loop(strategy, *arguments, **named)

    Strategy.start = start  # type: ignore[method-assign, assignment]
    try:
        yield
    finally:
        Strategy.start = stock  # type: ignore[method-assign]
