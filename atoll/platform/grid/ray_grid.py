"""``RayGrid``: Flower's Grid on Ray workers.

Any Flower strategy and any server app can talk to it: it takes messages for node ids and returns
replies, as Flower's own grids do. Node ids are 1 to N, node ``i`` holds partition ``i - 1``; a node
that was never sampled costs nothing.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from flwr.app import Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid
from numpy.typing import NDArray

from atoll import flower
from atoll.errors import InvalidExperimentError
from atoll.flower import Run
from atoll.platform.cluster.connection import Cluster
from atoll.platform.cluster.worker_allocation import Room
from atoll.platform.config.aggregation import Aggregation
from atoll.platform.config.sections import NODES_TIMEOUT
from atoll.platform.grid.cohort import Cohort
from atoll.platform.grid.dispatch import Dispatch, ExchangeReport
from atoll.platform.grid.draws import Draws
from atoll.platform.grid.instructions import Outgoing
from atoll.platform.grid.mailbox import Mailbox, Posted
from atoll.platform.grid.node_ids import NodeIds
from atoll.platform.grid.node_queues import NodeQueues
from atoll.platform.grid.replies import replies_of, settle_mismatches
from atoll.platform.grid.stream import Stream
from atoll.platform.grid.vectorization import VectorizationChoice, choose
from atoll.platform.messages.exchange import Exchange, Outcome
from atoll.platform.pool.worker_pool import WorkerPool
from atoll.platform.worker.worker_setup import worker_setup

if TYPE_CHECKING:
    from atoll.platform.grid.message_capture import CaptureRecorder


# Up to this timeout replies are fetched client by client, so that all that came in time are there.
PROMPT_SECONDS = 600.0


class RayGrid(Grid):
    """Simulates the nodes of a federation on the workers of a Ray cluster.

    It is safe to use from several threads. A node handles one message at a time, in the order in
    which they were sent.

    Parameters
    ----------
    client_app : ClientApp or callable
        The app that every node runs, or a picklable callable without arguments that makes it in
        the worker.
    num_nodes : int
        How many nodes there are.
    seed : int
        Clients' random states derive from (seed, round, kind of message, partition).
    workers : int or "auto"
        How many worker processes; "auto" is as many as the cluster holds.
    cpus_per_worker : float
        The share of a node's CPUs that each takes.
    gpus_per_worker : float or "auto"
        The share of a GPU that each takes. "auto" is none where the cluster has no GPU; else as
        many workers work on a GPU as fit into its memory, by what the first one needs.
    threads_per_worker : int
        Threads of a client's tensor operations.
    chunk_size : int or "auto"
        Clients a chunk. It decides the order of additions, so results of different chunk sizes
        agree to rounding only; "auto" depends on the cohort and the model alone.
    run_config : dict, optional
        The run configuration in each client's ``Context``.
    sizes : Sequence[int] or NDArray[int64], optional
        Examples per partition: chunks with most examples start first.
    client_timeout : float, optional
        Seconds that one client may take.
    check_replies : bool or "auto"
        Whether training replies are checked for the keys, shapes and dtypes of the arrays that
        went out, and for NaN and infinite values. "auto" checks them where the arrays are a
        model's and at least one reply matches them. Without checks every reply reaches the
        strategy as the client made it, and one that is late is left to :meth:`pull_messages`;
        with them, a client that is not done in time replies with an error.
    vectorize : bool or "auto"
        Whether a chunk's clients train at once, where the app offers it; "auto" times the first
        chunk both ways.
    data : Sequence[Path]
        Folders that the app opens; they are brought to nodes that do not have them.
    name : str
        What the workers are named by in Ray's dashboard.
    nodes_timeout : float
        Seconds to wait for the nodes that an autoscaler brings, if none is there.
    address : str, optional
        The Ray cluster; by default the one at hand, or one started here.
    cluster : Cluster, optional
        A connection that is there already; whoever made it closes it.
    run : Run, optional
        What :attr:`run` reports.

    Raises
    ------
    InvalidExperimentError
        If the cluster does not hold the workers, or has no GPU where one is asked for.
    EngineError
        If no Ray answers, workers cannot be set up, or nodes do not come in time.

    Examples
    --------
    A round by hand, on an app's own Ray (``client_app`` and ``messages`` are Flower's):

    >>> from atoll import RayGrid
    >>> with RayGrid(client_app, num_nodes=100, seed=0) as grid:  # doctest: +SKIP
    ...     replies = grid.send_and_receive(messages)
    """

    def __init__(
        self,
        client_app: ClientApp | Callable[[], ClientApp],
        num_nodes: int,
        *,
        seed: int = 0,
        workers: int | Literal["auto"] = "auto",
        cpus_per_worker: float = 1.0,
        gpus_per_worker: float | Literal["auto"] = "auto",
        threads_per_worker: int = 1,
        chunk_size: int | Literal["auto"] = "auto",
        run_config: dict[str, Any] | None = None,
        sizes: Sequence[int] | NDArray[np.int64] | None = None,
        client_timeout: float | None = None,
        check_replies: bool | Literal["auto"] = False,
        vectorize: bool | Literal["auto"] = False,
        data: Sequence[Path] = (),
        name: str = "federation",
        nodes_timeout: float = NODES_TIMEOUT,
        address: str | None = None,
        cluster: Cluster | None = None,
        run: Run | None = None,
    ) -> None:
        if num_nodes < 1:
            raise InvalidExperimentError(f"the number of nodes is {num_nodes}; expected at least 1")
        flower.assume_identity()
        flower.convert_arrays_quickly()
        self._run = run or flower.new_run()
        self._num_nodes = num_nodes
        self._seed = seed
        self._chunk_size = chunk_size
        self._sizes = sizes
        self._client_timeout = client_timeout
        self._check_replies = check_replies
        self._is_checked = check_replies is not False
        self.vectorization = VectorizationChoice.requested(vectorize)
        self.server_round: int | None = None
        self.states: dict[int, bytes] = {}
        self.recorder: CaptureRecorder | None = None
        self.on_exchange: Callable[[ExchangeReport], None] = _ignore_report
        self.on_progress: Callable[[str, int, int], None] = lambda kind, ended, of: None
        self._aggregation: Aggregation | None = None
        self._suspects: set[int] = set()
        self._places: dict[tuple[int, ...], str] = {}
        self._chunk_seconds: dict[str, float] = {}
        self._exchanges = 0
        self._lock = threading.RLock()
        # Messages that nobody waits for end in a thread of their own, also while a run is ending.
        self._report_lock = threading.RLock()
        self._mailbox = Mailbox(num_nodes)
        self._queues = NodeQueues()
        self._draws = Draws(remembers=not self._is_checked)
        self._own_cluster = Cluster(address) if cluster is None else None
        cluster = cluster or self._own_cluster
        assert cluster is not None
        try:
            self._room = Room(
                cluster, workers, cpus_per_worker, gpus_per_worker, nodes_timeout, num_nodes
            )
            allocation = self._room.first()
            setup = worker_setup(
                client_app,
                run_config or {},
                threads_per_worker,
                gpu=allocation.gpus > 0,
                data=data,
            )
            self.pool = WorkerPool(
                setup,
                allocation.workers,
                allocation.cpus,
                allocation.gpus,
                name,
                measure_gpus=gpus_per_worker == "auto",
                # A Ray that was started here stays as it is.
                look=None if cluster.started else self._room.look,
                start_timeout=nodes_timeout,
            )
        except BaseException:
            cluster.request.withdraw()
            if self._own_cluster is not None:
                self._own_cluster.close()
            raise
        self.pool.is_shared = not self._is_checked
        self._stream = Stream(
            self.pool,
            self._mailbox,
            self._queues,
            self._lock,
            start=self._start,
            keep_state=self._keep_state,
            report=self._report,
        )

    # --- Flower's Grid -------------------------------------------------------------------------

    def set_run(self, run: Run) -> None:
        """Set the run that :attr:`run` reports.

        Raises
        ------
        TypeError
            If it is none.
        RuntimeError
            If it is another than this grid's.
        """
        if not isinstance(run, Run):
            raise TypeError(f"`run` must be an instance of Run, got {type(run).__name__}")
        if run.run_id != self._run.run_id:
            raise RuntimeError(f"Cannot find the run with ID: {run.run_id}")
        self._run = run

    @property
    def run(self) -> Run:
        """The run, as Flower describes it; a copy."""
        return Run(**vars(self._run))

    def get_node_ids(self) -> NodeIds:
        """Return the ids of all nodes, 1 to N."""
        return NodeIds(self._num_nodes)

    def get_nodes(self) -> list[Any]:
        """Return all nodes, as Flower describes them."""
        return list(super().get_nodes())

    def create_message(
        self,
        content: RecordDict,
        message_type: str,
        dst_node_id: int,
        group_id: str,
        ttl: float | None = None,
    ) -> Message:
        """Create a message (Flower's older way; ``Message(...)`` does the same)."""
        return Message(content, dst_node_id, message_type, ttl=ttl, group_id=group_id)

    def push_messages(self, messages: Iterable[Message]) -> list[str]:
        """Send messages and return their ids; replies are fetched by :meth:`pull_messages`.

        A message to a node that does not exist is not sent, which the log says.

        Raises
        ------
        ValueError
            If a message is a reply, has no time to live, or was sent before.
        EngineError
            If the engine has failed meanwhile.
        """
        self._stream.raise_failure()
        posted = self._mailbox.post(messages)
        with self._lock:
            self._stream.send(self._queues.admit(posted.messages, one_each=True))
            self._stream.serve_in_background()
        if posted.error is not None:
            raise posted.error
        return posted.ids

    def pull_messages(self, message_ids: Iterable[str]) -> list[Message]:
        """Return the replies to these messages that have come, each once.

        A message that is not known, or whose time to live has passed, is answered by an error.

        Raises
        ------
        EngineError
            If the engine has failed meanwhile.
        """
        self._stream.raise_failure()
        return self._mailbox.pull(message_ids)

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> list[Message]:
        """Send messages and return their replies, in the order of node ids.

        A node that failed, in whatever way, replies with an error.

        Parameters
        ----------
        messages : Iterable[Message]
            Messages to nodes; those with the same content object share one copy of it.
        timeout : float, optional
            Seconds after which replies that have not come are waited for no longer; they count
            from when the first worker has started.

        Raises
        ------
        ValueError
            If a message is a reply, has no time to live, or was sent before.
        EngineError
            If workers cannot be started, or fail for a reason that is not a client's.
        """
        posted = self._mailbox.post(messages)
        posted.messages.sort(key=flower.address)
        with self._lock:
            requests = self._queues.admit(posted.messages, one_each=False)
        if posted.error is not None or (timeout is not None and timeout <= 0.0):
            self._stream.send(requests)
            self._stream.serve_in_background()
            if posted.error is not None:
                raise posted.error
            return []
        if not posted.ids:
            return []
        if self._is_whole(requests, posted, timeout):
            replies = self._receive_whole(requests, timeout)
            sent = {request.metadata.message_id for request in requests}
            left = [name for name in posted.ids if name not in sent]
            return sorted(replies + self._stream.receive(left, None, timeout), key=_source)
        is_prompt = timeout is not None and timeout < PROMPT_SECONDS
        dispatch = self._stream.send(requests, 1 if is_prompt else self._chunk_size)
        return sorted(self._stream.receive(posted.ids, dispatch, timeout), key=_source)

    @property
    def workers(self) -> int:
        """How many workers the cluster allows; as many are there or wait for a node."""
        return self.pool.size

    # --- what the round loop adds --------------------------------------------------------------

    @contextmanager
    def aggregating(self, aggregation: Aggregation | None) -> Iterator[None]:
        """Within this context training replies are handled as ``aggregation`` says."""
        self._aggregation = aggregation
        try:
            yield
        finally:
            self._aggregation = None

    def stop_reports(self) -> None:
        """Tell nobody of exchanges that end from here on; a report under way is waited for."""
        with self._report_lock:
            self.on_exchange = _ignore_report

    def close(self) -> None:
        """Stop the workers, let nodes go, and stop Ray if it was started here."""
        self._stream.close()
        self.pool.close()
        self._room.close()
        if self._own_cluster is not None:
            self._own_cluster.close()

    def __enter__(self) -> RayGrid:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    # --- an exchange that ends as a whole: replies are checked or added up ----------------------

    def _is_whole(self, requests: list[Message], posted: Posted, timeout: float | None) -> bool:
        """Tell whether replies are needed together; else each is there as soon as it has come."""
        if not requests:
            return False
        if self._is_checked or not self.vectorization.decided or self.vectorization.vectorized:
            return True
        is_prompt = timeout is not None and timeout < PROMPT_SECONDS
        return self._can_sum(requests) and not is_prompt and len(requests) == len(posted.ids)

    def _can_sum(self, requests: list[Message]) -> bool:
        aggregation = self._aggregation
        is_training = flower.address(requests[0])[1].partition(".")[0] == "train"
        return aggregation is not None and aggregation.sum_replies and is_training

    def _receive_whole(self, requests: list[Message], timeout: float | None) -> list[Message]:
        dispatch = self._prepare(requests, sums=self._can_sum(requests))
        outgoing, exchange = dispatch.outgoing, dispatch.exchange
        cut = partial(outgoing.chunks, self._chunk_size, self._sizes, self.states)
        try:
            if outgoing.kind == "train":
                if not self.vectorization.decided:
                    trial = cut(together=True)
                    self.vectorization = choose(self.pool, exchange, trial, outgoing.contents)
                exchange = self._as_chosen(exchange)
            dispatch.chunks = cut(together=exchange.vectorize)
            dispatch.exchange = exchange
            self._run_cohort(dispatch, timeout)
            return self._conclude(dispatch)
        finally:
            self._mailbox.forget([request.metadata.message_id for request in requests])
            self._stream.release([request.metadata.dst_node_id for request in requests])

    def _run_cohort(self, dispatch: Dispatch, timeout: float | None) -> None:
        """Run the chunks: with fewer clients at once, from the beginning, if they do not fit."""
        dispatch.share_contents()
        while True:
            cohort = self._cohort(dispatch)
            self.pool.run(cohort, timeout)
            if cohort.at_once is None:
                return
            self.vectorization = self.vectorization.lowered_to(cohort.at_once)
            dispatch.exchange = self._as_chosen(dispatch.exchange)

    def _as_chosen(self, exchange: Exchange) -> Exchange:
        choice = self.vectorization
        return replace(exchange, vectorize=choice.vectorized, at_once=choice.at_once)

    def _conclude(self, dispatch: Dispatch) -> list[Message]:
        exchange, cohort = dispatch.exchange, dispatch.cohort
        assert cohort is not None
        outcomes, total = cohort.outcomes(), cohort.total
        if exchange.checked:
            settle_mismatches(outcomes, exchange, total, strict=self._check_replies is True)
        requests = dispatch.outgoing.requests
        with self._lock:
            for outcome in outcomes:
                self._keep_state(outcome)
            if self.recorder is not None:
                self.recorder.record(exchange.server_round, requests, outcomes)
            replies = replies_of(requests, outcomes, exchange, total)
            flower.set_delivered(replies, datetime.now(UTC).isoformat())
            self._report(dispatch, outcomes)
        return replies

    # --- exchanges of both kinds ----------------------------------------------------------------

    def _start(
        self,
        requests: list[Message],
        chunk_size: int | Literal["auto"],
        on_ended: Callable[[Dispatch, list[Outcome]], None],
    ) -> Dispatch:
        """Send messages whose outcomes are taken as their chunks end, whoever drives the pool."""
        dispatch = self._prepare(requests, sums=False)
        dispatch.chunks = dispatch.outgoing.chunks(chunk_size, self._sizes, self.states)
        dispatch.share_contents()
        self.pool.add(self._cohort(dispatch, partial(on_ended, dispatch)))
        return dispatch

    def _prepare(self, requests: list[Message], *, sums: bool) -> Dispatch:
        with self._lock:
            self._exchanges += 1
            delivered_at = datetime.now(UTC).isoformat()
            outgoing = Outgoing(
                requests,
                self.server_round,
                self._draws,
                has_structure=self._is_checked or sums,
            )
            flower.set_delivered(requests, delivered_at)
            return Dispatch(outgoing, self._exchange(outgoing, delivered_at, sums=sums))

    def _exchange(self, outgoing: Outgoing, delivered_at: str, *, sums: bool) -> Exchange:
        aggregation = self._aggregation if outgoing.is_training else None
        is_weighted = aggregation is not None and (self._is_checked or sums)
        kind, server_round = outgoing.kind, outgoing.server_round
        return Exchange(
            number=self._exchanges,
            seed=self._seed,
            server_round=server_round,
            num_partitions=self._num_nodes,
            envelopes=tuple(outgoing.envelopes),
            expected=tuple(outgoing.expected),
            weighted_by=aggregation.weighted_by if aggregation and is_weighted else None,
            sum_replies=sums,
            checked=self._is_checked,
            check_finite=outgoing.is_training and self._is_checked,
            client_timeout=self._client_timeout,
            captured=() if self.recorder is None else self.recorder.nodes(kind, server_round),
            delivered_at=delivered_at,
        )

    def _cohort(
        self, dispatch: Dispatch, on_ended: Callable[[list[Outcome]], None] | None = None
    ) -> Cohort:
        outgoing, chunks = dispatch.outgoing, dispatch.chunks
        # More workers than chunks would be idle.
        self._room.could_use = max(self._room.could_use, len(chunks))
        clients = len(outgoing.requests)
        dispatch.cohort = Cohort(
            dispatch.exchange,
            dispatch.contents,
            chunks,
            self._suspects,
            self._chunk_seconds.get(outgoing.kind),
            workers=self.pool,
            places=self._places,
            one_at_a_time=outgoing.is_large,
            on_progress=lambda ended: self.on_progress(outgoing.kind, ended, clients),
            on_ended=on_ended or _ignore_outcomes,
        )
        return dispatch.cohort

    def _keep_state(self, outcome: Outcome) -> None:
        if outcome.state is not None:
            self.states[outcome.node_id] = outcome.state

    def _report(self, dispatch: Dispatch, outcomes: list[Outcome]) -> None:
        """Tell of an exchange, once."""
        outgoing, cohort = dispatch.outgoing, dispatch.cohort
        with self._report_lock:
            if dispatch.is_reported or cohort is None:
                return
            dispatch.is_reported = True
            for outcome, sent in zip(outcomes, outgoing.bytes_to, strict=True):
                outcome.bytes_down = sent
            self._places = cohort.places
            if cohort.chunk_seconds is not None:
                self._chunk_seconds[outgoing.kind] = cohort.chunk_seconds
            report = ExchangeReport(
                outgoing.kind,
                dispatch.exchange.server_round,
                outcomes,
                outgoing.bytes_down,
                cohort.traffic,
            )
            self.on_exchange(report)


def _source(reply: Message) -> int:
    return reply.metadata.src_node_id


def _ignore_report(report: ExchangeReport) -> None:
    """Do nothing: nobody asked for the outcomes."""


def _ignore_outcomes(outcomes: list[Outcome]) -> None:
    """Do nothing: the outcomes are taken together."""
