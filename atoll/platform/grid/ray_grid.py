"""``RayGrid``: Flower's Grid on Ray workers.

Any Flower strategy and any server app can talk to it: it takes messages for node ids and returns
replies, as Flower's own grids do. Node ids are 1 to N, node ``i`` holds partition ``i - 1``; a node
that was never sampled costs nothing.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from flwr.app import Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid

from atoll import flower
from atoll.errors import InvalidExperimentError
from atoll.flower import Run
from atoll.platform.cluster.capacity import WorkerRequest
from atoll.platform.cluster.connection import Cluster
from atoll.platform.cluster.worker_allocation import WorkerAllocator
from atoll.platform.config.aggregation import Aggregation
from atoll.platform.grid.exchange.exchange_runner import ExchangeRunner, OnExchange, OnProgress
from atoll.platform.grid.exchange.vectorization import VectorizationChoice
from atoll.platform.grid.grid_config import GridConfig
from atoll.platform.grid.mailbox import Mailbox, Posted
from atoll.platform.grid.node_ids import NodeIds
from atoll.platform.grid.node_queues import NodeQueues
from atoll.platform.grid.stream import Stream
from atoll.platform.pool.pool_start import start_pool
from atoll.platform.run_directory.node_states import NodeStates

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
    config : GridConfig, optional
        How they are simulated.
    cluster : Cluster, optional
        An existing connection; its creator closes it.
    run : Run, optional
        What :attr:`run` reports.
    **options
        Fields of :class:`~atoll.platform.grid.grid_config.GridConfig`, in place of those of
        ``config``: ``RayGrid(app, 100, seed=1, workers=4)``.

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
        config: GridConfig | None = None,
        *,
        cluster: Cluster | None = None,
        run: Run | None = None,
        **options: Any,
    ) -> None:
        if num_nodes < 1:
            raise InvalidExperimentError(f"the number of nodes is {num_nodes}; expected at least 1")
        config = replace(config or GridConfig(), **options)
        flower.assume_identity()
        flower.convert_arrays_quickly()
        self._run = run or flower.new_run()
        self._num_nodes = num_nodes
        self._config = config
        self._lock = threading.RLock()
        self._mailbox = Mailbox(num_nodes)
        self._queues = NodeQueues()
        self._own_cluster = Cluster(config.address) if cluster is None else None
        cluster = cluster or self._own_cluster
        assert cluster is not None
        try:
            allocator = _allocator_of(config, cluster, num_nodes)
            self.pool = start_pool(
                client_app,
                allocator,
                run_config=config.run_config,
                threads=config.threads_per_worker,
                data=config.data,
                label=config.name,
            )
        except BaseException:
            if self._own_cluster is not None:
                self._own_cluster.close()
            raise
        self._runner = ExchangeRunner(config, num_nodes, self.pool, allocator, self._lock)
        self.pool.is_shared = not self._runner.is_checked
        self._stream = Stream(
            self.pool,
            self._mailbox,
            self._queues,
            self._lock,
            start=self._runner.start,
            keep_state=self._runner.keep_state,
            report=self._runner.report,
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
        """Return the ids of all nodes, 1 to N, without those that have left."""
        return NodeIds(self._num_nodes, self._config.absent)

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
        # Those to one node stay in the order in which they are.
        posted.messages.sort(key=_destination)
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
        dispatch = self._stream.send(requests, 1 if is_prompt else self._config.chunk_size)
        return sorted(self._stream.receive(posted.ids, dispatch, timeout), key=_source)

    @property
    def workers(self) -> int:
        """Number of workers that the cluster allows; as many are there or wait for a node."""
        return self.pool.size

    # --- what the round loop adds --------------------------------------------------------------

    @property
    def states(self) -> NodeStates:
        """The serialised states of the nodes that have one."""
        return self._runner.states

    @property
    def vectorization(self) -> VectorizationChoice:
        """Whether a chunk's clients train vectorised, and why."""
        return self._runner.vectorization

    def restore(self, states: Mapping[int, bytes], vectorization: VectorizationChoice) -> None:
        """Take over the nodes' states and the choice of an interrupted run."""
        self._runner.states.restore(states)
        self._runner.vectorization = vectorization

    def set_round(self, server_round: int | None) -> None:
        """Set the round that exchanges belong to; None is what each message's config says."""
        self._runner.server_round = server_round

    def aggregating(self, aggregation: Aggregation | None) -> AbstractContextManager[None]:
        """Return a context in which training replies are handled as ``aggregation`` says."""
        return self._runner.aggregating(aggregation)

    def report_to(self, on_exchange: OnExchange) -> OnExchange:
        """Report exchanges to ``on_exchange``; return who they were reported to before."""
        return self._runner.report_to(on_exchange)

    def show_progress(self, on_progress: OnProgress) -> None:
        """Tell ``on_progress`` of clients that end: the kind of message, how many, of how many."""
        self._runner.show_progress(on_progress)

    def record_with(self, recorder: CaptureRecorder | None) -> None:
        """Have ``recorder`` write the messages that it is to capture."""
        self._runner.record_with(recorder)

    def stop_reports(self) -> None:
        """Stop reporting exchanges that end; a report under way is waited for."""
        self._runner.stop_reports()

    def close(self) -> None:
        """Stop the workers, and Ray if it was started here."""
        self._stream.close()
        self.pool.close()
        self._runner.states.close()
        if self._own_cluster is not None:
            self._own_cluster.close()

    def __enter__(self) -> RayGrid:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    # --- exchanges that end as a whole -----------------------------------------------------------

    def _is_whole(self, requests: list[Message], posted: Posted, timeout: float | None) -> bool:
        """Tell whether replies are needed together; else each is there as soon as it has come."""
        if not requests:
            return False
        if self._runner.needs_whole:
            return True
        is_prompt = timeout is not None and timeout < PROMPT_SECONDS
        is_all = len(requests) == len(posted.ids)
        return self._runner.can_sum(requests) and not is_prompt and is_all

    def _receive_whole(self, requests: list[Message], timeout: float | None) -> list[Message]:
        try:
            return self._runner.run_whole(requests, timeout)
        finally:
            self._mailbox.forget([request.metadata.message_id for request in requests])
            self._stream.release([request.metadata.dst_node_id for request in requests])


def _allocator_of(config: GridConfig, cluster: Cluster, num_nodes: int) -> WorkerAllocator:
    """Return what allocates the grid's workers; more than there are nodes have no work."""
    request = WorkerRequest(
        config.workers,
        config.cpus_per_worker,
        config.gpus_per_worker,
        config.label_selector or {},
    )
    return WorkerAllocator(cluster, request, config.nodes_timeout, num_nodes)


def _destination(message: Message) -> int:
    return flower.address(message)[0]


def _source(reply: Message) -> int:
    return reply.metadata.src_node_id
