"""The messages that were sent and their replies, kept as Flower's link state keeps them.

A message is known until its reply has been fetched or its time to live has passed; whoever asks
for the reply of one that is not known gets an error reply. It is safe to use from several threads.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime

from flwr.app import Message

from atoll import flower

logger = logging.getLogger("atoll")


@dataclass
class _Sent:
    expires: float
    reply: Message | None = None
    watchers: list[set[str]] = field(default_factory=list)

    def discard_from_watchers(self, name: str) -> None:
        """Tell those who wait for the reply that they need not."""
        for pending in self.watchers:
            pending.discard(name)


@dataclass(frozen=True)
class Posted:
    """Outcome of the messages of one push.

    Attributes
    ----------
    ids : list[str]
        The ids of those that are sent.
    messages : list[Message]
        Those to deliver.
    error : Exception or None
        What ended the push before its last message.
    """

    ids: list[str]
    messages: list[Message]
    error: Exception | None = None


class Mailbox:
    """Messages by id, with their replies.

    Parameters
    ----------
    num_nodes : int
        Nodes are 1 to this.
    """

    def __init__(self, num_nodes: int) -> None:
        self._num_nodes = num_nodes
        self._sent: dict[str, _Sent] = {}
        self._pushes = 0
        self._lock = threading.Lock()

    def post(self, messages: Iterable[Message]) -> Posted:
        """Give messages ids and keep them.

        One to a node that does not exist, and one that has expired, is left out with an error in
        the log. An object that comes twice is delivered once, under its last id, as Flower does.

        A message that is a reply, has no time to live, or was delivered before is an error; those
        before it are sent.
        """
        ids: list[str] = []
        accepted: dict[int, Message] = {}
        error: Exception | None = None
        with self._lock:
            self._pushes += 1
            push = self._pushes
        now = time.time()
        try:
            for position, message in enumerate(messages):
                flower.set_message_id(message, f"{push}-{position}")
                if not flower.is_sendable(message):
                    raise ValueError(f"Invalid message: {message}")
                if self._is_deliverable(message, now):
                    ids.append(f"{push}-{position}")
                    accepted[id(message)] = message
                    with self._lock:
                        self._sent[ids[-1]] = _Sent(flower.expiry(message))
        except Exception as raised:
            error = raised
        return Posted(ids, list(accepted.values()), error)

    def _is_deliverable(self, message: Message, now: float) -> bool:
        node_id = message.metadata.dst_node_id
        if not 1 <= node_id <= self._num_nodes:
            logger.error(
                "message to node %d is not sent: nodes are 1 to %d", node_id, self._num_nodes
            )
            return False
        if flower.expiry(message) <= now:
            logger.error("message to node %d is not sent: its time to live has passed", node_id)
            return False
        return True

    def deliver(self, reply: Message) -> None:
        """Keep a reply until it is fetched; one that comes too late is dropped."""
        name = reply.metadata.reply_to_message_id
        with self._lock:
            sent = self._sent.get(name)
            if sent is not None and sent.expires > time.time():
                sent.reply = reply
                sent.discard_from_watchers(name)

    def wait_no_longer(self, name: str) -> None:
        """Note that no reply to this message will come; until it expires, it has none."""
        with self._lock:
            if name in self._sent:
                self._sent[name].discard_from_watchers(name)

    def watch(self, message_ids: Iterable[str]) -> set[str]:
        """Return the messages that have no reply yet; each leaves the set as its reply comes."""
        with self._lock:
            pending = {name for name in message_ids if self._is_unanswered(name)}
            for name in pending:
                self._sent[name].watchers.append(pending)
        return pending

    def _is_unanswered(self, name: str) -> bool:
        sent = self._sent.get(name)
        return sent is not None and sent.reply is None

    def forget(self, message_ids: Iterable[str]) -> None:
        """Keep these messages no longer: no reply of their own will come."""
        with self._lock:
            for name in message_ids:
                self._sent.pop(name, None)

    def pull(self, message_ids: Iterable[str]) -> list[Message]:
        """Return the replies to these messages that have come; each is returned once.

        A message that is not known, or has expired, is answered by an error.
        """
        now = time.time()
        replies, unavailable = [], []
        with self._lock:
            for name in dict.fromkeys(message_ids):
                sent = self._sent.get(name)
                if sent is None or sent.expires <= now:
                    unavailable.append(name)
                elif sent.reply is not None:
                    replies.append(sent.reply)
                else:
                    continue
                self._sent.pop(name, None)
        if replies:
            flower.set_delivered(replies, datetime.now(UTC).isoformat())
        return [flower.unavailable_reply(name) for name in unavailable] + replies

    def first_expiry(self, message_ids: Collection[str]) -> float | None:
        """Return when the first of these messages expires (Unix time), or None without any."""
        with self._lock:
            moments = [self._sent[name].expires for name in message_ids if name in self._sent]
        return min(moments, default=None)
