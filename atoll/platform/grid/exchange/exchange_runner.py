"""Exchanges as the workers run them: messages prepared, cut into chunks, run and reported."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING, Literal

from flwr.app import Message

from atoll import flower
from atoll.platform.cluster.worker_allocation import WorkerAllocator
from atoll.platform.config.aggregation import Aggregation
from atoll.platform.grid.exchange.cohort import Cohort
from atoll.platform.grid.exchange.dispatch import DispatchedExchange, ExchangeReport
from atoll.platform.grid.exchange.draws import Draws
from atoll.platform.grid.exchange.instructions import Instructions
from atoll.platform.grid.exchange.replies import replies_of, settle_mismatches
from atoll.platform.grid.exchange.vectorization import VectorizationChoice, choose
from atoll.platform.grid.grid_config import GridConfig
from atoll.platform.messages.exchange import Exchange
from atoll.platform.messages.outcome import Outcome
from atoll.platform.pool.worker_pool import WorkerPool
from atoll.platform.run_directory.node_states import NodeStates

if TYPE_CHECKING:
    # With it come PyTorch and the captures' format, which a user's own app does not need.
    from atoll.platform.grid.message_capture import CaptureRecorder

OnExchange = Callable[[ExchangeReport], None]
OnProgress = Callable[[str, int, int], None]


class ExchangeRunner:
    """Runs exchanges on a worker pool, and keeps what later ones depend on.

    Parameters
    ----------
    config : GridConfig
        How chunks are cut, replies are checked and clients are trained.
    num_nodes : int
        How many nodes there are.
    pool : WorkerPool
        The workers.
    allocator : WorkerAllocator
        Told how many workers would have work.
    lock : RLock
        Held while what threads share is changed.

    Attributes
    ----------
    is_checked : bool
        Whether replies are validated.
    vectorization : VectorizationChoice
        Whether a chunk's clients train vectorised.
    states : NodeStates
        The nodes' serialised states.
    server_round : int or None
        The round that exchanges belong to; None is what each message's config says.
    """

    def __init__(
        self,
        config: GridConfig,
        num_nodes: int,
        pool: WorkerPool,
        allocator: WorkerAllocator,
        lock: threading.RLock,
    ) -> None:
        self._config = config
        self._num_nodes = num_nodes
        self._pool = pool
        self._allocator = allocator
        self._lock = lock
        self.is_checked = config.check_replies is not False
        self.vectorization = VectorizationChoice.requested(config.vectorize)
        self.states = NodeStates()
        self.server_round: int | None = None
        self._recorder: CaptureRecorder | None = None
        self._on_exchange: OnExchange = _ignore_report
        self._on_progress: OnProgress = _ignore_progress
        # By thread: an app may have several strategies at work at once.
        self._of_thread = threading.local()
        self._draws = Draws(remembers=not self.is_checked)
        self._suspects: set[int] = set()
        self._places: Mapping[tuple[int, ...], str] = {}
        self._chunk_seconds: dict[str, float] = {}
        self._exchanges = 0

    # --- who is told, and what of --------------------------------------------------------------

    def report_to(self, on_exchange: OnExchange) -> OnExchange:
        """Report exchanges to ``on_exchange``; return who they were reported to before."""
        with self._lock:
            before, self._on_exchange = self._on_exchange, on_exchange
        return before

    def stop_reports(self) -> None:
        """Stop reporting; a report under way is waited for.

        Messages that nobody waits for end in a thread of their own, also while a run is ending.
        """
        self.report_to(_ignore_report)

    def show_progress(self, on_progress: OnProgress) -> None:
        """Tell ``on_progress`` of clients that end: the kind of message, how many, of how many."""
        self._on_progress = on_progress

    def record_with(self, recorder: CaptureRecorder | None) -> None:
        """Have ``recorder`` write the messages that it is to capture."""
        self._recorder = recorder

    @contextmanager
    def aggregating(self, aggregation: Aggregation | None) -> Iterator[None]:
        """Within this context a thread's training replies are handled as ``aggregation`` says."""
        self._of_thread.aggregation = aggregation
        try:
            yield
        finally:
            self._of_thread.aggregation = None

    @property
    def _aggregation(self) -> Aggregation | None:
        found: Aggregation | None = getattr(self._of_thread, "aggregation", None)
        return found

    # --- an exchange that ends as a whole: replies are checked or added up ----------------------

    @property
    def needs_whole(self) -> bool:
        """Whether an exchange is run as a whole, whatever its messages are."""
        choice = self.vectorization
        return self.is_checked or not choice.decided or choice.vectorized

    def can_sum(self, requests: Sequence[Message]) -> bool:
        """Tell whether workers may add up the replies to these messages."""
        aggregation = self._aggregation
        is_training = flower.address(requests[0])[1].partition(".")[0] == "train"
        return aggregation is not None and aggregation.sum_replies and is_training

    def run_whole(self, requests: list[Message], timeout: float | None) -> list[Message]:
        """Return the replies to these messages once all clients have ended.

        Parameters
        ----------
        timeout : float or None
            Seconds after which clients that have not ended reply with an error.
        """
        dispatch = self._prepare(requests, sums=self.can_sum(requests))
        instructions, exchange = dispatch.instructions, dispatch.exchange
        config = self._config
        cut = partial(instructions.chunks, config.chunk_size, config.sizes, self.states.references)
        if instructions.kind == "train":
            if not self.vectorization.decided:
                trial = cut(vectorized=True)
                self.vectorization = choose(
                    self._pool, exchange, trial, instructions.contents, self.states
                )
            exchange = self._as_chosen(exchange)
        dispatch.chunks = cut(vectorized=exchange.vectorize)
        dispatch.exchange = exchange
        self._run_cohort(dispatch, timeout)
        return self._conclude(dispatch)

    def _run_cohort(self, dispatch: DispatchedExchange, timeout: float | None) -> None:
        """Run the chunks: with fewer vectorised clients, from the beginning, if they do not fit."""
        dispatch.share_contents()
        while True:
            cohort = self._cohort(dispatch)
            self._pool.run(cohort, timeout)
            if cohort.at_once is None:
                return
            self.vectorization = self.vectorization.lowered_to(cohort.at_once)
            dispatch.exchange = self._as_chosen(dispatch.exchange)

    def _as_chosen(self, exchange: Exchange) -> Exchange:
        choice = self.vectorization
        return replace(exchange, vectorize=choice.vectorized, at_once=choice.at_once)

    def _conclude(self, dispatch: DispatchedExchange) -> list[Message]:
        exchange, cohort = dispatch.exchange, dispatch.cohort
        assert cohort is not None
        outcomes, total = cohort.outcomes(), cohort.total
        if exchange.checked:
            strict = self._config.check_replies is True
            outcomes = settle_mismatches(outcomes, exchange, total, strict=strict)
        requests = dispatch.instructions.requests
        with self._lock:
            for outcome in outcomes:
                self.keep_state(outcome)
            self.states.tidy_temporary()
            if self._recorder is not None:
                self._recorder.record(exchange.server_round, requests, outcomes)
            replies = replies_of(requests, outcomes, exchange, total)
            flower.set_delivered(replies, datetime.now(UTC).isoformat())
            self.report(dispatch, outcomes)
        return replies

    # --- exchanges of both kinds ----------------------------------------------------------------

    def start(
        self,
        requests: list[Message],
        chunk_size: int | Literal["auto"],
        on_ended: Callable[[DispatchedExchange, Sequence[Outcome]], None],
    ) -> DispatchedExchange:
        """Send messages whose outcomes are taken as their chunks end, whoever drives the pool."""
        dispatch = self._prepare(requests, sums=False)
        dispatch.chunks = dispatch.instructions.chunks(
            chunk_size, self._config.sizes, self.states.references
        )
        dispatch.share_contents()
        self._pool.add(self._cohort(dispatch, partial(on_ended, dispatch)))
        return dispatch

    def _prepare(self, requests: list[Message], *, sums: bool) -> DispatchedExchange:
        with self._lock:
            self._exchanges += 1
            delivered_at = datetime.now(UTC).isoformat()
            instructions = Instructions(
                requests,
                self.server_round,
                self._draws,
                has_structure=self.is_checked or sums,
            )
            flower.set_delivered(requests, delivered_at)
            return DispatchedExchange(
                instructions, self._exchange(instructions, delivered_at, sums=sums)
            )

    def _exchange(self, instructions: Instructions, delivered_at: str, *, sums: bool) -> Exchange:
        aggregation = self._aggregation if instructions.is_training else None
        is_weighted = aggregation is not None and (self.is_checked or sums)
        kind, server_round = instructions.kind, instructions.server_round
        return Exchange(
            number=self._exchanges,
            seed=self._config.seed,
            server_round=server_round,
            num_partitions=self._num_nodes,
            envelopes=tuple(instructions.envelopes),
            expected=tuple(instructions.expected),
            weighted_by=aggregation.weighted_by if aggregation and is_weighted else None,
            sum_replies=sums,
            checked=self.is_checked,
            check_finite=instructions.is_training and self.is_checked,
            client_timeout=self._config.client_timeout,
            captured=() if self._recorder is None else self._recorder.nodes(kind, server_round),
            delivered_at=delivered_at,
        )

    def _cohort(
        self,
        dispatch: DispatchedExchange,
        on_ended: Callable[[Sequence[Outcome]], None] | None = None,
    ) -> Cohort:
        instructions, chunks = dispatch.instructions, dispatch.chunks
        # More workers than chunks would be idle.
        self._allocator.could_use = max(self._allocator.could_use, len(chunks))
        clients = len(instructions.requests)
        dispatch.cohort = Cohort(
            dispatch.exchange,
            dispatch.contents,
            chunks,
            self._suspects,
            self._chunk_seconds.get(instructions.kind),
            workers=self._pool,
            states=self.states,
            places=self._places,
            one_at_a_time=instructions.is_large,
            on_progress=lambda ended: self._on_progress(instructions.kind, ended, clients),
            on_ended=on_ended or _ignore_outcomes,
        )
        return dispatch.cohort

    def keep_state(self, outcome: Outcome) -> None:
        """Keep a node's new state, if it has one."""
        if outcome.kept is not None:
            self.states.keep(outcome.node_id, outcome.kept)

    def report(self, dispatch: DispatchedExchange, outcomes: Sequence[Outcome]) -> None:
        """Report an exchange, once."""
        instructions, cohort = dispatch.instructions, dispatch.cohort
        if dispatch.is_reported or cohort is None:
            return
        dispatch.is_reported = True
        self._places = cohort.places
        if cohort.chunk_seconds is not None:
            self._chunk_seconds[instructions.kind] = cohort.chunk_seconds
        self._on_exchange(
            ExchangeReport(
                instructions.kind,
                dispatch.exchange.server_round,
                [outcome.without_content() for outcome in outcomes],
                instructions.bytes_to,
                cohort.traffic,
            )
        )


def _ignore_report(report: ExchangeReport) -> None:
    """Ignore a report: the default."""


def _ignore_progress(kind: str, ended: int, of: int) -> None:
    """Ignore progress: the default."""


def _ignore_outcomes(outcomes: Sequence[Outcome]) -> None:
    """Do nothing: the outcomes are taken together."""
