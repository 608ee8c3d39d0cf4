"""Queues of messages by node: one at a time, in the order in which they were sent."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable

from flwr.app import Message


class NodeQueues:
    """The messages that are under way to nodes, and those that wait for them.

    A node's state is what its last message left, so a message waits until those before it have
    been answered.
    """

    def __init__(self) -> None:
        self._under_way: dict[int, int] = {}
        self._waiting: dict[int, deque[Message]] = {}

    def admit(self, messages: Iterable[Message], *, one_each: bool) -> list[Message]:
        """Return the messages that may be sent now; the others wait for their nodes.

        Parameters
        ----------
        messages : Iterable[Message]
            Messages of one push, in the order in which a node gets them.
        one_each : bool
            Whether a node's second message waits for the reply to its first.
        """
        admitted = []
        busy = set(self._under_way)
        for message in messages:
            node = message.metadata.dst_node_id
            if node in busy:
                self._waiting.setdefault(node, deque()).append(message)
                continue
            admitted.append(message)
            self._under_way[node] = self._under_way.get(node, 0) + 1
            if one_each:
                busy.add(node)
        return admitted

    def ended(self, node: int) -> Message | None:
        """Note that one of a node's messages has ended; return the next to send to it, if any."""
        self._under_way[node] -= 1
        if self._under_way[node]:
            return None
        del self._under_way[node]
        waiting = self._waiting.get(node)
        if not waiting:
            return None
        message = waiting.popleft()
        if not waiting:
            del self._waiting[node]
        self._under_way[node] = 1
        return message
