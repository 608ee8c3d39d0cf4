"""``RayGrid``: Flower's Grid on Ray workers.

Any Flower strategy can talk to it: it takes messages for node ids and returns replies. Node ids
are 1 to N, node ``i`` holds partition ``i - 1``; a node that was never sampled costs nothing.
"""

from __future__ import annotations

import queue
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, Literal

import ray
from flwr.app import ConfigRecord, Error, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid
from flwr.supercore.run import Run

from atoll.errors import InvalidExperimentError
from atoll.platform import flower
from atoll.platform.aggregation import Aggregation
from atoll.platform.cluster import Cluster
from atoll.platform.cohort import Cohort, add_to_sum
from atoll.platform.content import (
    PackedRecords,
    is_model,
    pack,
    parts_of,
    structure_of,
    unpack,
)
from atoll.platform.exchange import Chunk, Envelope, Exchange, Metrics, Outcome
from atoll.platform.pool import WorkerPool
from atoll.platform.vectorization import VectorizationChoice, choose
from atoll.platform.weighted_sum import WeightedSum, mean_metrics
from atoll.platform.worker_setup import worker_setup

MAX_CHUNK = 16
LARGE_CONTENT = 4_000_000


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
    cpus_per_worker, gpus_per_worker : float
        The share of a node that each takes.
    threads_per_worker : int
        Threads of a client's tensor operations.
    chunk_size : int or "auto"
        Clients a chunk. It decides the order of additions, so results of different chunk sizes
        agree to rounding only; "auto" depends on the cohort and the model alone.
    run_config : dict, optional
        The run configuration in each client's ``Context``.
    sizes : Sequence[int], optional
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
    address : str, optional
        The Ray cluster; by default the one at hand, or one started here.
    cluster : Cluster, optional
        A connection that is there already; whoever made it closes it.

    Raises
    ------
    InvalidExperimentError
        If the cluster does not hold the workers, or has no GPU where one is asked for.
    EngineError
        If no Ray answers, or workers cannot be set up.
    """

    def __init__(
        self,
        client_app: ClientApp | Callable[[], ClientApp],
        num_nodes: int,
        *,
        seed: int = 0,
        workers: int | Literal["auto"] = "auto",
        cpus_per_worker: float = 1.0,
        gpus_per_worker: float = 0.0,
        threads_per_worker: int = 1,
        chunk_size: int | Literal["auto"] = "auto",
        run_config: dict[str, Any] | None = None,
        sizes: Sequence[int] | None = None,
        client_timeout: float | None = None,
        check_replies: bool | Literal["auto"] = "auto",
        vectorize: bool | Literal["auto"] = False,
        address: str | None = None,
        cluster: Cluster | None = None,
    ) -> None:
        if num_nodes < 1:
            raise InvalidExperimentError(f"the number of nodes is {num_nodes}; expected at least 1")
        flower.assume_identity()
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
        self.on_outcomes: Callable[[str, int, list[Outcome]], None] = _ignore_outcomes
        self.on_progress: Callable[[str, int, int], None] = lambda kind, ended, of: None
        self.bytes_down = 0
        self._aggregation: Aggregation | None = None
        self._suspects: set[int] = set()
        self._chunk_seconds: dict[str, float] = {}
        self._exchanges = 0
        self._mailbox = _Mailbox(self)
        self._own_cluster = Cluster(address) if cluster is None else None
        cluster = cluster or self._own_cluster
        assert cluster is not None
        try:
            allocation = cluster.allocate(workers, cpus_per_worker, gpus_per_worker)
            self.workers = allocation.workers
            setup = worker_setup(
                client_app, run_config or {}, threads_per_worker, gpu=gpus_per_worker > 0
            )
            self.pool = WorkerPool(setup, self.workers, allocation.cpus, allocation.gpus)
        except BaseException:
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
        aggregation = self._aggregation
        self._exchanges += 1
        exchange, contents = self._describe(requests, aggregation)
        chunks = self._cut(requests, exchange, contents)
        references = _share(contents, chunks, exchange)
        kind = requests[0].metadata.message_type
        if kind == "train" and not self.vectorization.decided:
            self.vectorization = choose(self.pool, exchange, chunks, contents)
        exchange = self._with_vectorization(exchange, kind)
        cohort = Cohort(
            exchange,
            ray.put(exchange),
            references,
            chunks,
            self._suspects,
            self._chunk_seconds.get(kind),
            lambda ended: self.on_progress(kind, ended, len(requests)),
        )
        self.pool.run(cohort, timeout)
        if cohort.chunk_seconds is not None:
            self._chunk_seconds[kind] = cohort.chunk_seconds
        return self._conclude(requests, exchange, cohort, kind)

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
        """Stop the workers, and Ray if it was started here."""
        self._mailbox.close()
        self.pool.close()
        if self._own_cluster is not None:
            self._own_cluster.close()

    def __enter__(self) -> RayGrid:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    # --- one exchange --------------------------------------------------------------------------

    def _describe(
        self, requests: list[Message], aggregation: Aggregation | None
    ) -> tuple[Exchange, list[PackedRecords]]:
        number = self._exchanges
        contents: list[PackedRecords] = []
        by_identity: dict[int, int] = {}
        envelopes: list[Envelope] = []
        numbers: dict[tuple[int, str, str, float], int] = {}
        expected: list[Any] = []
        self._envelope_of: list[int] = []
        for position, request in enumerate(requests):
            node_id, message_type, group_id, ttl = flower.address(request)
            if not 1 <= node_id <= self._num_nodes:
                raise ValueError(f"message to node {node_id}: nodes are 1 to {self._num_nodes}")
            flower.set_message_id(request, f"{number}-{position}")
            content = by_identity.get(id(request.content))
            if content is None:
                content = by_identity[id(request.content)] = len(contents)
                contents.append(pack(request.content))
            key = (content, message_type, group_id, ttl)
            if key not in numbers:
                numbers[key] = len(envelopes)
                envelopes.append(Envelope(*key, created_at=request.metadata.created_at))
                expected.append(self._expected(request))
            self._envelope_of.append(numbers[key])
        self.bytes_down = 0
        self._aggregation: Aggregation | None = None
        self._suspects: set[int] = set()
        self._chunk_seconds: dict[str, float] = {}
        self._exchanges = 0
        self._mailbox = _Mailbox(self)
        self._own_cluster = Cluster(address) if cluster is None else None
        cluster = cluster or self._own_cluster
        assert cluster is not None
        try:
            allocation = cluster.allocate(workers, cpus_per_worker, gpus_per_worker)
            self.workers = allocation.workers
            setup = worker_setup(
                client_app, run_config or {}, threads_per_worker, gpu=gpus_per_worker > 0
            )
            self.pool = WorkerPool(setup, self.workers, allocation.cpus, allocation.gpus)
        except BaseException:
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
        aggregation = self._aggregation
        self._exchanges += 1
        exchange, contents = self._describe(requests, aggregation)
        chunks = self._cut(requests, exchange, contents)
        references = _share(contents, chunks, exchange)
        kind = requests[0].metadata.message_type
        if kind == "train" and not self.vectorization.decided:
            self.vectorization = choose(self.pool, exchange, chunks, contents)
        exchange = self._with_vectorization(exchange, kind)
        cohort = Cohort(
            exchange,
            ray.put(exchange),
            references,
            chunks,
            self._suspects,
            self._chunk_seconds.get(kind),
            lambda ended: self.on_progress(kind, ended, len(requests)),
        )
        self.pool.run(cohort, timeout)
        if cohort.chunk_seconds is not None:
            self._chunk_seconds[kind] = cohort.chunk_seconds
        return self._conclude(requests, exchange, cohort, kind)

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
        """Stop the workers, and Ray if it was started here."""
        self._mailbox.close()
        self.pool.close()
        if self._own_cluster is not None:
            self._own_cluster.close()

    def __enter__(self) -> RayGrid:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    # --- one exchange --------------------------------------------------------------------------

    def _describe(
        self, requests: list[Message], aggregation: Aggregation | None
    ) -> tuple[Exchange, list[PackedRecords]]:
        number = self._exchanges
        contents: list[PackedRecords] = []
        by_identity: dict[int, int] = {}
        envelopes: list[Envelope] = []
        numbers: dict[tuple[int, str, str, float], int] = {}
        expected: list[Any] = []
        self._envelope_of: list[int] = []
        for position, request in enumerate(requests):
            node_id, message_type, group_id, ttl = flower.address(request)
            if not 1 <= node_id <= self._num_nodes:
                raise ValueError(f"message to node {node_id}: nodes are 1 to {self._num_nodes}")
            flower.set_message_id(request, f"{number}-{position}")
            content = by_identity.get(id(request.content))
            if content is None:
                content = by_identity[id(request.content)] = len(contents)
                contents.append(pack(request.content))
            key = (content, message_type, group_id, ttl)
            envelope = envelopes.get(key)
            if envelope is None:
                envelope = envelopes[key] = len(envelopes)
                expected.append(self._expected(request))
            self._envelope_of.append(envelope)
        sizes = [contents[envelope.content].array_bytes for envelope in envelopes]
        self.bytes_down = sum(sizes[envelope] for envelope in self._envelope_of)
        first = requests[0]
        is_training = first.metadata.message_type.startswith("train")
        exchange = Exchange(
            number=number,
            seed=self._seed,
            server_round=self._round_of(first),
            num_partitions=self._num_nodes,
            envelopes=tuple(envelopes),
            expected=tuple(expected),
            weighted_by=aggregation.weighted_by if aggregation and is_training else None,
            sum_replies=bool(aggregation and is_training and aggregation.sum_replies),
            check_finite=is_training and self._check_replies is not False,
            client_timeout=self._client_timeout,
        )
        return exchange, contents

    def _expected(self, request: Message) -> Any:
        if not request.metadata.message_type.startswith("train") or self._check_replies is False:
            return None
        arrays = parts_of(request.content).arrays
        if arrays is None:
            return None
        structure = structure_of(arrays)
        return structure if is_model(structure) else None

    def _round_of(self, request: Message) -> int:
        if self.server_round is not None:
            return self.server_round
        for record in request.content.values():
            if isinstance(record, ConfigRecord) and "server-round" in record:
                return int(record["server-round"])  # type: ignore[arg-type]
        return self._exchanges

    def _cut(
        self, requests: list[Message], exchange: Exchange, contents: list[PackedRecords]
    ) -> list[Chunk]:
        """Cut the cohort into chunks, the largest (by examples) first."""
        nodes = [request.metadata.dst_node_id for request in requests]
        size = self._chunk_length(len(nodes), max(c.array_bytes for c in contents))
        cuts, start = [], 0
        while start < len(nodes):
            stop = min(start + size, len(nodes))
            while stop < len(nodes) and nodes[stop] == nodes[stop - 1]:
                stop += 1
            cuts.append((start, stop))
            start = stop
        if self._sizes is not None:
            sizes = self._sizes
            cuts.sort(key=lambda cut: -sum(int(sizes[node - 1]) for node in nodes[slice(*cut)]))
        return [
            Chunk(
                index=index,
                positions=tuple(range(start, stop)),
                nodes=tuple(nodes[start:stop]),
                envelopes=tuple(self._envelope_of[start:stop]),
                states={n: self.states[n] for n in nodes[start:stop] if n in self.states},
            )
            for index, (start, stop) in enumerate(cuts)
        ]

    def _chunk_length(self, cohort: int, content_bytes: int) -> int:
        if self._chunk_size != "auto":
            return self._chunk_size
        # Small chunks balance the workers; a large model's sums are worth fewer, larger ones.
        chunks = 8 if content_bytes >= LARGE_CONTENT else 32
        return max(1, min(MAX_CHUNK, -(-cohort // chunks)))

    def _with_vectorization(self, exchange: Exchange, kind: str) -> Exchange:
        if kind == "train" and self.vectorization.vectorized:
            return replace(exchange, vectorize=True)
        return exchange

    def _conclude(
        self, requests: list[Message], exchange: Exchange, cohort: Cohort, kind: str
    ) -> list[Message]:
        outcomes = cohort.outcomes()
        total = self._settle_mismatches(outcomes, exchange, cohort.total)
        for outcome in outcomes:
            if outcome.status == "ok" and outcome.state is not None:
                self.states[outcome.node_id] = outcome.state
        replies = []
        if exchange.sum_replies:
            replies += _mean_reply(requests, outcomes, exchange, total)
        elif exchange.weighted_by is not None:
            _keep_common_metrics(outcomes)
        for request, outcome in zip(requests, outcomes, strict=True):
            if outcome.status == "error":
                error = Error(code=outcome.code, reason=outcome.reason)
                replies.append(flower.reply(request, error, _reply_id(request)))
            elif outcome.records is not None:
                records = unpack(outcome.records)
                replies.append(flower.reply(request, records, _reply_id(request)))
        self.on_outcomes(kind, exchange.server_round, outcomes)
        return replies

    def _settle_mismatches(
        self, outcomes: list[Outcome], exchange: Exchange, total: WeightedSum
    ) -> WeightedSum:
        """Refuse updates that differ from what went out, or from the majority if all do."""
        odd = [o for o in outcomes if o.status == "ok" and o.mismatch is not None]
        if not odd:
            return total
        strict = self._check_replies is True
        if strict or any(o.status == "ok" and o.mismatch is None for o in outcomes):
            for outcome in odd:
                outcome.fail(outcome.mismatch or "", flower.REJECTED)
            return total
        if exchange.weighted_by is None:
            return total
        usual = Counter(o.structure for o in odd).most_common(1)[0][0]
        for outcome in odd:
            if outcome.structure != usual:
                outcome.fail(f"{outcome.mismatch} (most replies agree otherwise)", flower.REJECTED)
            elif exchange.sum_replies:
                outcome.mismatch = None
                add_to_sum(total, outcome, exchange)
        return total


def _ignore_outcomes(kind: str, server_round: int, outcomes: list[Outcome]) -> None:
    """Do nothing: nobody asked for the outcomes."""


def _reply_id(request: Message) -> str:
    return f"{request.metadata.message_id}-reply"


def _share(contents: list[PackedRecords], chunks: list[Chunk], exchange: Exchange) -> list[Any]:
    """Put contents that several chunks need into the object store, once."""
    users: Counter[int] = Counter()
    for chunk in chunks:
        users.update({exchange.envelopes[envelope].content for envelope in chunk.envelopes})
    return [
        ray.put(content) if users[index] > 1 else content for index, content in enumerate(contents)
    ]


def _mean_reply(
    requests: list[Message], outcomes: list[Outcome], exchange: Exchange, total: WeightedSum
) -> list[Message]:
    """Return one reply that stands for all that were summed: their mean and their weight."""
    summed = [(r, o) for r, o in zip(requests, outcomes, strict=True) if o.summed]
    if not summed or total.weight == 0.0:
        return []
    assert exchange.weighted_by is not None
    _keep_common_metrics([outcome for _, outcome in summed])
    rows: list[Any] = [outcome.metrics for _, outcome in summed]
    weights = [row[exchange.weighted_by] for row in rows]
    metrics: Metrics = {exchange.weighted_by: sum(weights)}
    metrics.update(mean_metrics(rows, exchange.weighted_by))
    request, first = summed[0]
    content = RecordDict(
        {
            first.arrays_name or "arrays": total.mean(),
            first.metrics_name or "metrics": MetricRecord(metrics),
        }
    )
    return [flower.reply(request, content, _reply_id(request))]


def _keep_common_metrics(outcomes: list[Outcome]) -> None:
    """Leave out metrics that not every reply has: strategies average them over all replies."""
    replied = [outcome for outcome in outcomes if outcome.metrics is not None]
    if not replied:
        return
    names = {frozenset(outcome.metrics or ()) for outcome in replied}
    if len(names) == 1:
        return
    common = frozenset.intersection(*names)
    for outcome in replied:
        outcome.metrics = {k: v for k, v in (outcome.metrics or {}).items() if k in common}
        if outcome.records is not None:
            outcome.records = PackedRecords(
                tuple(
                    (name, kind, {k: v for k, v in body.items() if k in common})
                    if kind is MetricRecord
                    else (name, kind, body)
                    for name, kind, body in outcome.records.records
                )
            )


class _Mailbox:
    """Messages pushed one by one (Flower's older API), sent together as they gather."""

    GATHER_SECONDS = 0.01

    def __init__(self, grid: RayGrid) -> None:
        self._grid = grid
        self._outbox: queue.Queue[Message | None] = queue.Queue()
        self._replies: dict[str, Message] = {}
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._pushed = 0

    def push(self, messages: list[Message]) -> list[str]:
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
        with self._lock:
            return [self._replies.pop(name) for name in message_ids if name in self._replies]

    def close(self) -> None:
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
            replies = self._grid.send_and_receive(batch)
            sent_ids = {
                message.metadata.message_id: name
                for message, name in zip(batch, pushed_ids, strict=True)
            }
            with self._lock:
                for reply in replies:
                    self._file(reply, sent_ids)

    def _file(self, reply: Message, sent_ids: dict[str, str]) -> None:
        name = sent_ids[reply.metadata.reply_to_message_id]
        reply.metadata.__dict__["_reply_to_message_id"] = name
        self._replies[name] = reply
