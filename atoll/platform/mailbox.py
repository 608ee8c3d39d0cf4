"""Messages pushed and pulled one by one (Flower's older API), sent together as they gather."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Iterable

from flwr.app import Message

from atoll.platform import flower

SendAndReceive = Callable[[list[Message]], list[Message]]


class Mailbox:
    """Sends what is pushed in a thread of its own, and keeps the replies until they are pulled.

    Parameters
    ----------
    exchange : callable
        Sends messages and returns their replies.
    """

    GATHER_SECONDS = 0.01

    def __init__(self, exchange: SendAndReceive) -> None:
        self._exchange = exchange
        self._outbox: queue.Queue[Message | None] = queue.Queue()
        self._replies: dict[str, Message] = {}
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._pushed = 0

    def push(self, messages: list[Message]) -> list[str]:
        """Send messages and return their ids."""
        with self._lock:
            if self._thread is None:
                self._thread = threading.Thread(target=self._deliver, daemon=True)
                self._thread.start()
            ids = []
            for message in messages:
                self._pushed += 1
                ids.append(f"pushed-{self._pushed}")
                flower.set_message_id(message, ids[-1])
                self._outbox.put(message)
        return ids

    def pull(self, message_ids: Iterable[str]) -> list[Message]:
        """Return the replies to these messages that have come; each is returned once."""
        with self._lock:
            return [self._replies.pop(name) for name in message_ids if name in self._replies]

    def close(self) -> None:
        """Deliver nothing more."""
        if self._thread is not None:
            self._outbox.put(None)
            self._thread.join(timeout=5.0)

    def _deliver(self) -> None:
        while (message := self._outbox.get()) is not None:
            time.sleep(self.GATHER_SECONDS)
            batch = [message]
            while not self._outbox.empty():
                following = self._outbox.get()
                if following is None:
                    return
                batch.append(following)
            pushed_ids = [message.metadata.message_id for message in batch]
            replies = self._exchange(batch)
            sent_ids = {
                message.metadata.message_id: name
                for message, name in zip(batch, pushed_ids, strict=True)
            }
            with self._lock:
                for reply in replies:
                    self._file(reply, sent_ids)

    def _file(self, reply: Message, sent_ids: dict[str, str]) -> None:
        name = sent_ids[reply.metadata.reply_to_message_id]
        flower.set_reply_to(reply, name)
        self._replies[name] = reply
