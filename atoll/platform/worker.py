"""The worker: a Ray actor that lives as long as the run and simulates clients, chunk by chunk."""

from __future__ import annotations

import gc
import importlib
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import ray
from flwr.clientapp import ClientApp
from ray import cloudpickle

from atoll.clients.heap import keep_freed_memory
from atoll.clients.weighted_sum import WeightedSum
from atoll.platform import flower
from atoll.platform.client_runner import ClientRunner
from atoll.platform.content import PackedRecords
from atoll.platform.exchange import Chunk, ChunkResult, Exchange, Timing
from atoll.platform.node_data import NodeData
from atoll.platform.sum_tree import Span, TreeSum


@dataclass(frozen=True)
class WorkerSetup:
    """What a worker needs to start.

    Attributes
    ----------
    app : bytes
        A ClientApp, or a callable without arguments that makes one, as cloudpickle.
    run_config : dict
        The run configuration of the clients' ``Context``.
    threads : int
        Threads that a client's tensor operations may use.
    gpu : bool
        Whether the worker has a share of a GPU.
    search_path : tuple[str, ...]
        The driver's module search path, so that what it can import the worker can too.
    data : NodeData or None
        What the app opens, which is brought to the worker's node if it is not there.
    """

    app: bytes
    run_config: dict[str, Any]
    threads: int
    gpu: bool
    search_path: tuple[str, ...]
    data: NodeData | None = None


class Worker:
    """Holds one ClientApp and runs clients on it; one process, on one node of the cluster."""

    def __init__(self, name: str, setup: WorkerSetup) -> None:
        self._name = name
        sys.path.extend(path for path in setup.search_path if path not in sys.path)
        flower.assume_identity()
        self._bytes_brought = 0 if setup.data is None else setup.data.bring()
        app = cloudpickle.loads(setup.app)
        if not isinstance(app, ClientApp):
            app = app()
        if not isinstance(app, ClientApp):
            raise TypeError(f"expected a ClientApp, got {type(app).__name__}")
        keep_freed_memory()
        if "torch" in sys.modules or setup.gpu:
            _prepare_torch(setup.threads, gpu=setup.gpu)
        self._runner = ClientRunner(app, setup.run_config, name)
        # What is loaded now stays: the collector need not look at it again and again.
        gc.collect()
        gc.freeze()

    def __repr__(self) -> str:
        return self._name

    def where(self) -> dict[str, Any]:
        """Return this worker's process and node, and the bytes of data that were sent for it.

        It is also the sign that the worker has started.
        """
        context = ray.get_runtime_context()
        return {
            "name": self._name,
            "pid": os.getpid(),
            "node": context.get_node_id(),
            "bytes_brought": self._bytes_brought,
        }

    def run(
        self,
        exchange: Exchange,
        chunks: list[Chunk],
        indices: tuple[int, ...],
        *contents: PackedRecords,
    ) -> list[ChunkResult]:
        """Run the clients of ``chunks``; ``contents`` are those that they need, by index."""
        by_index = dict(zip(indices, contents, strict=True))
        results = []
        for chunk in chunks:
            results.append(self._runner.run_chunk(exchange, chunk, by_index))
            if results[-1].stuck:
                break
        return results

    def run_and_leave(
        self,
        exchange: Exchange,
        chunks: list[Chunk],
        indices: tuple[int, ...],
        *contents: PackedRecords,
    ) -> tuple[list[ChunkResult], WeightedSum | None]:
        """Run the clients of the one chunk; its sum is a second result, which stays here.

        If a client is stuck, the sum is of those before it, and goes along with the first result.
        """
        results = self.run(exchange, chunks, indices, *contents)
        total = results[0].total
        if results[0].stuck or total is None:
            return results, None
        results[0].total, results[0].left_bytes = None, total.nbytes
        return results, total

    def add_up(
        self, count: int, spans: list[Span], top: Span, *parts: WeightedSum
    ) -> tuple[int, WeightedSum]:
        """Return the bytes and the sum of ``top``, a span of ``count`` chunks; the sum stays here.

        Parameters
        ----------
        count : int
            How many chunks the exchange has.
        spans : list[Span]
            What ``parts`` are the sums of; they make up ``top``.
        """
        tree = TreeSum(count)
        for span, part in zip(spans, parts, strict=True):
            tree.add(span, part)
        total = tree.part(top)
        return total.nbytes, total

    def time_both_ways(
        self,
        exchange: Exchange,
        chunk: Chunk,
        indices: tuple[int, ...],
        *contents: PackedRecords,
    ) -> Timing:
        """Return the seconds that ``chunk`` takes one client after another, and at once."""
        by_index = dict(zip(indices, contents, strict=True))
        return self._runner.time_both_ways(exchange, chunk, by_index)

    def call(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """Call ``function`` in this worker (server-side evaluation, for one)."""
        return function(*arguments)


def _prepare_torch(threads: int, *, gpu: bool) -> None:
    torch: Any = importlib.import_module("torch")
    torch.set_num_threads(threads)
    if gpu:
        # The same bits on every run are worth more here than cuDNN's fastest kernels.
        torch.backends.cudnn.benchmark = False
        torch.backends.cudnn.deterministic = True
