"""The worker: a Ray actor that lives as long as the run and simulates clients, chunk by chunk."""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any, cast

import ray
from flwr.clientapp import ClientApp
from ray import cloudpickle

from atoll import flower
from atoll.clients.arrays.weighted_sum import WeightedSum
from atoll.clients.training.memory_allocator import keep_freed_memory
from atoll.lazy import LazyModule
from atoll.platform.messages.exchange import Chunk, ChunkResult, Exchange, Timing
from atoll.platform.messages.packing import PackedRecords
from atoll.platform.worker.client_runner import ClientRunner
from atoll.platform.worker.gpu_memory import OnGpu, forget_peak, run_on_gpu
from atoll.platform.worker.sum_tree import Span, TreeSum

if TYPE_CHECKING:
    # With it come Arrow and all data sets, which a user's own app does not need.
    from atoll.platform.worker.node_data import NodeData

# Apps that do not use it should not wait for it.
torch = LazyModule("torch")


@dataclass(frozen=True)
class WorkerSetup:
    """Settings with which a worker starts.

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
        # The driver's order: an app's folder comes before what shares a name with its modules.
        own = [path for path in sys.path if path not in setup.search_path]
        sys.path[:] = [*setup.search_path, *own]
        flower.assume_identity()
        flower.convert_arrays_quickly()
        self._bytes_brought = 0 if setup.data is None else setup.data.bring()
        app = cloudpickle.loads(setup.app)
        if not isinstance(app, ClientApp):
            app = app()
        if not isinstance(app, ClientApp):
            raise TypeError(f"expected a ClientApp, got {type(app).__name__}")
        keep_freed_memory()
        if "torch" in sys.modules or setup.gpu:
            _prepare_torch(setup.threads, gpu=setup.gpu)
        self._has_gpu = setup.gpu
        self._runner = ClientRunner(app, setup.run_config, name, has_gpu=setup.gpu)
        # What is loaded now stays: the collector need not look at it again and again.
        gc.collect()
        gc.freeze()

    def __repr__(self) -> str:
        return self._name

    def where(self) -> dict[str, Any]:
        """Return this worker's process, node and GPUs, and the bytes of data sent for it.

        It is also the sign that the worker has started.
        """
        context = ray.get_runtime_context()
        gpus = context.get_accelerator_ids().get("GPU", []) if self._has_gpu else []
        return {
            "name": self._name,
            "pid": os.getpid(),
            "node": context.get_node_id(),
            "gpus": list(map(str, gpus)),
            "bytes_brought": self._bytes_brought,
        }

    def _do(self, what: str, work: Callable[[], Any]) -> Any:
        """Return what ``work`` does; with a GPU, in an :class:`OnGpu`."""
        return run_on_gpu(what, work) if self._has_gpu else work()

    def run(
        self,
        exchange: Exchange,
        chunks: list[Chunk],
        indices: tuple[int, ...],
        *contents: PackedRecords,
    ) -> list[ChunkResult] | OnGpu:
        """Run the clients of ``chunks``; ``contents`` are those that they need, by index."""
        by_index = dict(zip(indices, contents, strict=True))
        run = partial(self._run_chunks, exchange, chunks, by_index)
        return cast(list[ChunkResult] | OnGpu, self._do("a chunk", run))

    def _run_chunks(
        self, exchange: Exchange, chunks: list[Chunk], contents: dict[int, PackedRecords]
    ) -> list[ChunkResult]:
        results = []
        for chunk in chunks:
            results.append(self._runner.run_chunk(exchange, chunk, contents))
            if results[-1].stuck:
                break
        return results

    def run_and_leave(
        self,
        exchange: Exchange,
        chunks: list[Chunk],
        indices: tuple[int, ...],
        *contents: PackedRecords,
    ) -> tuple[list[ChunkResult] | OnGpu, WeightedSum | None]:
        """Run the clients of the one chunk; its sum is a second result, which stays here.

        If a client is stuck, the sum is of those before it, and goes along with the first result.
        """
        by_index = dict(zip(indices, contents, strict=True))
        left: list[WeightedSum] = []

        def run() -> list[ChunkResult]:
            results = self._run_chunks(exchange, chunks, by_index)
            (result,) = results
            if result.total is None or result.stuck:
                return results
            left.append(result.total)
            return [replace(result, total=None, left_bytes=result.total.nbytes)]

        done = cast(list[ChunkResult] | OnGpu, self._do("a chunk", run))
        return done, left[0] if left else None

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
    ) -> Timing | OnGpu:
        """Return the seconds that ``chunk`` takes with its clients sequential and vectorised."""
        by_index = dict(zip(indices, contents, strict=True))

        def time() -> Timing:
            timing = self._runner.time_both_ways(exchange, chunk, by_index)
            # Only one of the ways will be gone again.
            forget_peak()
            return timing

        return cast(Timing | OnGpu, self._do("a chunk", time))

    def call(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """Call ``function`` in this worker (server-side evaluation, for one)."""
        return self._do(getattr(function, "__name__", "a call"), lambda: function(*arguments))


def _prepare_torch(threads: int, *, gpu: bool) -> None:
    torch.set_num_threads(threads)
    if gpu:
        # The same bits on every run are worth more here than the fastest kernels. cuBLAS reads
        # its setting when the context is made, which is later.
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.backends.cudnn.benchmark = False
        torch.backends.cudnn.deterministic = True
        torch.use_deterministic_algorithms(True, warn_only=True)
        torch.utils.deterministic.fill_uninitialized_memory = False
