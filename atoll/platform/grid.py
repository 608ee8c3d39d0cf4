"""``RayGrid``: Flower's Grid on Ray workers.

Any Flower strategy can talk to it: it takes messages for node ids and returns replies. Node ids
are 1 to N, node ``i`` holds partition ``i - 1``; a node that was never sampled costs nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from flwr.app import Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid
from flwr.supercore.run import Run
from numpy.typing import NDArray

from atoll.errors import InvalidExperimentError
from atoll.platform import flower
from atoll.platform.aggregation import Aggregation
from atoll.platform.cluster import Cluster
from atoll.platform.cohort import Cohort
from atoll.platform.exchange import Chunk, Exchange, Outcome
from atoll.platform.experiment import NODES_TIMEOUT
from atoll.platform.mailbox import Mailbox
from atoll.platform.node_sums import Traffic
from atoll.platform.outgoing import Outgoing
from atoll.platform.pool import WorkerPool
from atoll.platform.replies import replies_of, settle_mismatches
from atoll.platform.room import Room
from atoll.platform.vectorization import VectorizationChoice, choose
from atoll.platform.worker_setup import worker_setup

if TYPE_CHECKING:
    from atoll.platform.capture import CaptureRecorder


class RayGrid(Grid):
    """Simulates the nodes of a federation on the workers of a Ray cluster.

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
        model's and at least one reply matches them.
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

    Raises
    ------
    InvalidExperimentError
        If the cluster does not hold the workers, or has no GPU where one is asked for.
    EngineError
        If no Ray answers, workers cannot be set up, or nodes do not come in time.
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
        check_replies: bool | Literal["auto"] = "auto",
        vectorize: bool | Literal["auto"] = False,
        data: Sequence[Path] = (),
        name: str = "federation",
        nodes_timeout: float = NODES_TIMEOUT,
        address: str | None = None,
        cluster: Cluster | None = None,
    ) -> None:
        if num_nodes < 1:
            raise InvalidExperimentError(f"the number of nodes is {num_nodes}; expected at least 1")
        flower.assume_identity()
        flower.convert_arrays_quickly()
        self._run = flower.new_run()
        self._num_nodes = num_nodes
        self._seed = seed
        self._chunk_size = chunk_size
        self._sizes = sizes
        self._client_timeout = client_timeout
        self._check_replies = check_replies
        self.vectorization = VectorizationChoice.requested(vectorize)
        self.server_round: int | None = None
        self.states: dict[int, bytes] = {}
        self.recorder: CaptureRecorder | None = None
        self.on_outcomes: Callable[[str, int, list[Outcome]], None] = _ignore_outcomes
        self.on_progress: Callable[[str, int, int], None] = lambda kind, ended, of: None
        self.bytes_down = 0
        self.traffic = Traffic()
        self._aggregation: Aggregation | None = None
        self._suspects: set[int] = set()
        self._places: dict[tuple[int, ...], str] = {}
        self._chunk_seconds: dict[str, float] = {}
        self._exchanges = 0
        self._mailbox = Mailbox(self.send_and_receive)
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
            )
        except BaseException:
            cluster.request.withdraw()
            if self._own_cluster is not None:
                self._own_cluster.close()
            raise

    # --- Flower's Grid -------------------------------------------------------------------------

    def set_run(self, run: Run) -> None:
        """Set the run that :attr:`run` reports."""
        self._run = run

    @property
    def run(self) -> Run:
        """The run, as Flower describes it."""
        return self._run

    def get_node_ids(self) -> Sequence[int]:
        """Return the ids of all nodes, 1 to N, as a range."""
        return range(1, self._num_nodes + 1)

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
        """Send messages and return their ids; replies are fetched by :meth:`pull_messages`."""
        return self._mailbox.push(list(messages))

    def pull_messages(self, message_ids: Iterable[str]) -> list[Message]:
        """Return the replies to these messages that have come."""
        return self._mailbox.pull(message_ids)

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> list[Message]:
        """Send messages and return their replies, in the order of node ids.

        Every message has a reply: a node that failed, in whatever way, replies with an error.

        Parameters
        ----------
        messages : Iterable[Message]
            Messages to nodes; those with the same content object share one copy of it.
        timeout : float, optional
            Seconds after which unfinished clients become errors.

        Raises
        ------
        ValueError
            If a message goes to a node that does not exist.
        """
        requests = sorted(messages, key=flower.address)
        if not requests:
            return []
        self._exchanges += 1
        checks = self._check_replies is not False
        outgoing = Outgoing(requests, self._exchanges, self._num_nodes, check_replies=checks)
        self.bytes_down = outgoing.bytes_down
        exchange = self._exchange(outgoing)
        cut = partial(outgoing.chunks, self._chunk_size, self._sizes, self.states)
        if outgoing.kind == "train":
            if not self.vectorization.decided:
                trial = cut(together=True)
                self.vectorization = choose(self.pool, exchange, trial, outgoing.contents)
            exchange = self._as_chosen(exchange)
        chunks = cut(together=exchange.vectorize)
        # More workers than chunks would be idle.
        self._room.could_use = max(self._room.could_use, len(chunks))
        exchange, cohort = self._run_cohort(outgoing, exchange, chunks, timeout)
        self._places = cohort.places
        self.traffic = cohort.traffic
        if cohort.chunk_seconds is not None:
            self._chunk_seconds[outgoing.kind] = cohort.chunk_seconds
        return self._conclude(outgoing, exchange, cohort)

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

    def close(self) -> None:
        """Stop the workers, let nodes go, and stop Ray if it was started here."""
        self._mailbox.close()
        self.pool.close()
        self._room.close()
        if self._own_cluster is not None:
            self._own_cluster.close()

    def __enter__(self) -> RayGrid:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    # --- one exchange --------------------------------------------------------------------------

    def _exchange(self, outgoing: Outgoing) -> Exchange:
        aggregation = self._aggregation if outgoing.is_training else None
        server_round = self.server_round
        if server_round is None:
            server_round = outgoing.server_round() or self._exchanges
        return Exchange(
            number=self._exchanges,
            seed=self._seed,
            server_round=server_round,
            num_partitions=self._num_nodes,
            envelopes=tuple(outgoing.envelopes),
            expected=tuple(outgoing.expected),
            weighted_by=aggregation.weighted_by if aggregation else None,
            sum_replies=aggregation.sum_replies if aggregation else False,
            check_finite=outgoing.is_training and self._check_replies is not False,
            client_timeout=self._client_timeout,
            captured=()
            if self.recorder is None
            else self.recorder.nodes(outgoing.kind, server_round),
        )

    def _run_cohort(
        self, outgoing: Outgoing, exchange: Exchange, chunks: list[Chunk], timeout: float | None
    ) -> tuple[Exchange, Cohort]:
        """Run the chunks: with fewer clients at once, from the beginning, if they do not fit."""
        contents = outgoing.share(chunks)
        clients = len(outgoing.requests)
        while True:
            cohort = Cohort(
                exchange,
                contents,
                chunks,
                self._suspects,
                self._chunk_seconds.get(outgoing.kind),
                workers=self.pool,
                places=self._places,
                one_at_a_time=outgoing.is_large,
                on_progress=lambda ended: self.on_progress(outgoing.kind, ended, clients),
            )
            self.pool.run(cohort, timeout)
            if cohort.at_once is None:
                return exchange, cohort
            self.vectorization = self.vectorization.lowered_to(cohort.at_once)
            exchange = self._as_chosen(exchange)

    def _as_chosen(self, exchange: Exchange) -> Exchange:
        choice = self.vectorization
        return replace(exchange, vectorize=choice.vectorized, at_once=choice.at_once)

    def _conclude(self, outgoing: Outgoing, exchange: Exchange, cohort: Cohort) -> list[Message]:
        outcomes, total = cohort.outcomes(), cohort.total
        for outcome, sent in zip(outcomes, outgoing.bytes_to, strict=True):
            outcome.bytes_down = sent
        settle_mismatches(outcomes, exchange, total, strict=self._check_replies is True)
        for outcome in outcomes:
            if outcome.status == "ok" and outcome.state is not None:
                self.states[outcome.node_id] = outcome.state
        if self.recorder is not None:
            self.recorder.record(exchange.server_round, outgoing.requests, outcomes)
        replies = replies_of(outgoing.requests, outcomes, exchange, total)
        self.on_outcomes(outgoing.kind, exchange.server_round, outcomes)
        return replies


def _ignore_outcomes(kind: str, server_round: int, outcomes: list[Outcome]) -> None:
    """Do nothing: nobody asked for the outcomes."""
