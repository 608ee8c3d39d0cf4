"""Messages that are answered one by one, whether or not a caller waits for the replies.

Replies go to the mailbox as clients end, and a node's next message is sent when the one before it
has ended. The thread that waits for replies drives the workers; where none waits, one in the
background does.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Collection, Iterable, Sequence
from typing import Literal, Protocol

from flwr.app import Message

from atoll.errors import EngineError
from atoll.platform.grid.exchange.cohort import late_outcome
from atoll.platform.grid.exchange.dispatch import DispatchedExchange
from atoll.platform.grid.exchange.replies import reply_of
from atoll.platform.grid.mailbox import Mailbox
from atoll.platform.grid.node_queues import NodeQueues
from atoll.platform.messages.outcome import Outcome
from atoll.platform.pool.worker_pool import WorkerPool

# How often a thread looks again that waits for a message which no worker has.
IDLE_SECONDS = 0.02


class Start(Protocol):
    """Sends messages as one exchange."""

    def __call__(
        self,
        requests: list[Message],
        chunk_size: int | Literal["auto"],
        on_ended: Callable[[DispatchedExchange, Sequence[Outcome]], None],
    ) -> DispatchedExchange:
        """Return the exchange; ``on_ended`` gets the outcomes of clients that have just ended."""


class Stream:
    """Sends messages and keeps their replies.

    Parameters
    ----------
    pool : WorkerPool
        The workers.
    mailbox : Mailbox
        Where replies are kept.
    queues : NodeQueues
        Which message a node gets next.
    lock : RLock
        Held while what threads share is changed.
    start : callable
        Sends messages.
    keep_state, report : callable
        Take a client's new state, and what has become of an exchange.
    """

    def __init__(
        self,
        pool: WorkerPool,
        mailbox: Mailbox,
        queues: NodeQueues,
        lock: threading.RLock,
        *,
        start: Start,
        keep_state: Callable[[Outcome], None],
        report: Callable[[DispatchedExchange, Sequence[Outcome]], None],
    ) -> None:
        self._pool = pool
        self._mailbox = mailbox
        self._queues = queues
        self._lock = lock
        self._start = start
        self._keep_state = keep_state
        self._report = report
        self._under_way: list[DispatchedExchange] = []
        self._background: threading.Thread | None = None
        self._has_work = threading.Event()
        self._is_closed = False
        self._failure: EngineError | None = None

    def send(
        self, requests: list[Message], chunk_size: int | Literal["auto"] = 1
    ) -> DispatchedExchange | None:
        """Send messages whose nodes are free; their replies go to the mailbox."""
        if not requests:
            return None
        with self._lock:
            dispatch = self._start(requests, chunk_size, self._ended)
            self._under_way.append(dispatch)
            self._has_work.set()
        return dispatch

    def release(self, nodes: Iterable[int]) -> None:
        """Send what waited for these nodes, each of which has ended a message."""
        with self._lock:
            following = [self._queues.ended(node) for node in nodes]
            self.send([message for message in following if message is not None])

    def _ended(self, dispatch: DispatchedExchange, outcomes: Sequence[Outcome]) -> None:
        requests = dispatch.instructions.requests
        with self._lock:
            for outcome in outcomes:
                self._keep_state(outcome)
                dispatch.outcomes[outcome.position] = outcome
            checked = dispatch.exchange.checked
            for outcome in outcomes:
                request = requests[outcome.position]
                reply = reply_of(request, outcome, checked=checked)
                if reply is not None:
                    self._mailbox.deliver(reply)
                else:
                    self._mailbox.wait_no_longer(request.metadata.message_id)
            if len(dispatch.outcomes) == len(requests):
                self._under_way.remove(dispatch)
                self._report(dispatch, dispatch.in_order())
            self.release(outcome.node_id for outcome in outcomes)

    def receive(
        self,
        message_ids: Collection[str],
        dispatch: DispatchedExchange | None,
        timeout: float | None,
    ) -> list[Message]:
        """Wait for the replies to these messages, and return those that have come in time.

        Parameters
        ----------
        message_ids : Collection[str]
            The messages.
        dispatch : DispatchedExchange or None
            The exchange that they are of, as far as they have been sent.
        timeout : float or None
            Seconds to wait, from when there is a worker; None waits for all.

        Raises
        ------
        EngineError
            If workers cannot be started, or fail for a reason that is not a client's.
        """
        if not message_ids:
            return []
        if timeout is not None:
            self._pool.await_worker()
        deadline = None if timeout is None else time.monotonic() + timeout
        unavailable: list[Message] = []
        pending = self._mailbox.watch(message_ids)
        try:
            while pending and (deadline is None or time.monotonic() < deadline):
                expires = self._mailbox.first_expiry(pending)
                self._wait(pending, deadline, expires)
                if expires is not None and expires <= time.time():
                    unavailable += self._expired(pending)
        except BaseException:
            self._abandon(dispatch)
            raise
        if pending:
            self._leave(dispatch)
        without = {reply.metadata.reply_to_message_id for reply in unavailable} | pending
        return unavailable + self._mailbox.pull([m for m in message_ids if m not in without])

    def _expired(self, pending: set[str]) -> list[Message]:
        """Return the errors for messages whose time to live has passed."""
        replies = self._mailbox.pull(list(pending))
        pending -= {reply.metadata.reply_to_message_id for reply in replies}
        return replies

    def _wait(
        self, pending: Collection[str], deadline: float | None, expires: float | None
    ) -> None:
        """Drive the workers until all replies are here, or one of the two moments has come."""
        if expires is not None:
            expiry = time.monotonic() + max(0.0, expires - time.time())
            deadline = expiry if deadline is None else min(deadline, expiry)
        while pending and (deadline is None or time.monotonic() < deadline):
            self.raise_failure()
            if self._under_way:
                self._pool.turn(deadline)
            else:
                time.sleep(IDLE_SECONDS)

    def _leave(self, dispatch: DispatchedExchange | None) -> None:
        """Let clients without a waiting caller finish: their replies can be pulled."""
        with self._lock:
            if dispatch is not None and len(dispatch.outcomes) < len(
                dispatch.instructions.requests
            ):
                self._report(dispatch, dispatch.in_order(late_outcome))
            self.serve_in_background()

    def _abandon(self, dispatch: DispatchedExchange | None) -> None:
        """Stop what workers do for an exchange that was interrupted."""
        if dispatch is None or dispatch.cohort is None:
            return
        self._pool.give_up(dispatch.cohort)
        with self._lock:
            if dispatch in self._under_way:
                self._under_way.remove(dispatch)
            for position, request in enumerate(dispatch.instructions.requests):
                if position not in dispatch.outcomes:
                    self._queues.ended(request.metadata.dst_node_id)

    def serve_in_background(self) -> None:
        """See to it that replies come while no thread waits for them."""
        with self._lock:
            self._pool.is_shared = True
            if self._background is None:
                self._background = threading.Thread(target=self._serve, daemon=True)
                self._background.start()

    def _serve(self) -> None:
        while not self._is_closed:
            if not self._under_way:
                self._has_work.wait()
                self._has_work.clear()
                continue
            try:
                self._pool.turn()
            except EngineError as error:
                self._failure = error
                return

    def raise_failure(self) -> None:
        """Raise what has ended the work in the background, if anything has.

        Raises
        ------
        EngineError
            The same error.
        """
        if self._failure is not None:
            raise EngineError(str(self._failure)) from self._failure

    def close(self) -> None:
        """Stop the work in the background."""
        self._is_closed = True
        self._has_work.set()
        if self._background is not None:
            self._background.join(timeout=5.0)
