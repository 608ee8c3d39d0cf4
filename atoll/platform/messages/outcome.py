"""Outcome of one client's message: a reply, or a failure.

They are named tuples, because there is one for every client of every round: they are made, sent
and read faster than dataclasses, and immutable.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

from flwr.app import MetricRecord

from atoll.clients.arrays.weighted_sum import Structure
from atoll.platform.messages.packing import PackedRecords

Metrics = dict[str, int | float | list[int] | list[float]]


def encodable(text: str) -> str:
    """Return a text that can be printed and stored: lone surrogates become escapes."""
    return text.encode("utf-8", "backslashreplace").decode()


class ClientReply(NamedTuple):
    """A client's reply, as far as the driver needs it.

    Attributes
    ----------
    metrics : dict or None
        The reply's only ``MetricRecord``.
    metrics_name, arrays_name : str
        The names of the metrics and of the arrays in the reply.
    records : PackedRecords or None
        The reply's content, unless it went into the chunk's sum.
    is_summed : bool
        Whether it went into the sum.
    structure : Structure or None
        The reply's structure where it is not the expected one.
    mismatch : str or None
        How the reply differs from what was expected.
    captured : PackedRecords or None
        The reply's content as the client sent it, where it is captured.
    created_at, ttl : float
        When the client made the reply (Unix time), and the seconds that it is valid.
    bytes_up : int
        Bytes of its arrays.
    message_type, group_id : str or None
        Where they are not the request's.
    """

    metrics: Metrics | None = None
    metrics_name: str = ""
    arrays_name: str = ""
    records: PackedRecords | None = None
    is_summed: bool = False
    structure: Structure | None = None
    mismatch: str | None = None
    captured: PackedRecords | None = None
    created_at: float = 0.0
    ttl: float = 0.0
    bytes_up: int = 0
    message_type: str | None = None
    group_id: str | None = None


class Failure(NamedTuple):
    """Failure: the kind and the reason for which a client has no usable reply.

    Attributes
    ----------
    reason : str or None
        Why, in one line.
    code : int
        Flower's error code.
    details : str or None
        The traceback, where the client raised.
    without_reply : bool
        Whether there is no reply, not even an error, as far as Flower's grids are concerned: the
        client was not done in time, or returned nothing that is one.
    bytes_up : int
        Bytes of the arrays of a reply that was refused.
    """

    reason: str | None
    code: int
    details: str | None = None
    without_reply: bool = False
    bytes_up: int = 0


class StateReference(NamedTuple):
    """Place of a node's state on disk.

    Attributes
    ----------
    segment, offset, length : int
        The file's number, and the state's place in it, in bytes.
    digest : bytes
        Its SHA-256.
    """

    segment: int
    offset: int
    length: int
    digest: bytes


class Outcome(NamedTuple):
    """Outcome of one client's message.

    Attributes
    ----------
    position : int
        The message's place in the exchange.
    node_id : int
        The node that it went to.
    result : ClientReply or Failure
        Outcome of the message.
    worker : str
        The worker that ran the client.
    seconds : float
        How long that took.
    state : bytes or None
        The node's new state, if it changed.
    kept : StateReference or None
        The same, where the driver has written it to disk.
    """

    position: int
    node_id: int
    result: ClientReply | Failure = ClientReply()
    worker: str = ""
    seconds: float = 0.0
    state: bytes | None = None
    kept: StateReference | None = None

    @property
    def reply(self) -> ClientReply | None:
        """The reply, or None."""
        return None if isinstance(self.result, Failure) else self.result

    @property
    def failure(self) -> Failure | None:
        """The failure, or None."""
        return self.result if isinstance(self.result, Failure) else None

    @property
    def status(self) -> Literal["ok", "error"]:
        """Whether there is a reply that can be used: "ok", or else "error"."""
        return "error" if isinstance(self.result, Failure) else "ok"

    @property
    def reason(self) -> str | None:
        """Reason of the failure, in one line."""
        return self.result.reason if isinstance(self.result, Failure) else None

    @property
    def metrics(self) -> Metrics | None:
        """The metrics of the reply."""
        return None if isinstance(self.result, Failure) else self.result.metrics

    @property
    def bytes_up(self) -> int:
        """Bytes of the arrays that came back."""
        return self.result.bytes_up

    def refused(self, reason: str, code: int) -> Outcome:
        """Return this with a failure in the reply's place; nothing of the reply is kept."""
        failure = Failure(reason, code, bytes_up=self.result.bytes_up)
        return self._replace(result=failure, state=None, kept=None)

    def without_content(self) -> Outcome:
        """Return this without the reply's arrays, which are not needed after aggregation."""
        reply = self.result
        if isinstance(reply, Failure) or (reply.records is None and reply.captured is None):
            return self
        return self._replace(result=reply._replace(records=None, captured=None))


def plain_metrics(record: MetricRecord) -> Metrics:
    """Return a metric record as a plain dict."""
    return dict(record.items())
