"""The start of a worker pool, with the workers that are allocated to a run."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from flwr.clientapp import ClientApp

from atoll.platform.cluster.worker_allocation import WorkerAllocator
from atoll.platform.pool.worker_pool import WorkerPool
from atoll.platform.worker.worker_setup import worker_setup


def start_pool(
    app: ClientApp | Callable[[], ClientApp],
    allocator: WorkerAllocator,
    *,
    run_config: dict[str, Any] | None = None,
    threads: int = 1,
    data: Sequence[Path] = (),
    label: str = "federation",
) -> WorkerPool:
    """Start the workers that fit, once at least one does.

    Parameters
    ----------
    app : ClientApp or callable
        The app that each worker holds, or a picklable callable that makes it there.
    allocator : WorkerAllocator
        Which workers the run may have.
    run_config : dict, optional
        The run configuration of the clients' ``Context``.
    threads : int
        Threads of a client's tensor operations.
    data : Sequence[Path]
        Folders that the app opens, which are brought to the workers' nodes.
    label : str
        What the workers are named by in Ray's dashboard.

    Raises
    ------
    InvalidExperimentError
        If the cluster does not hold the workers.
    EngineError
        If its autoscaler does not bring nodes in time, or the app cannot be pickled.
    """
    allocation = allocator.wait()
    setup = worker_setup(app, run_config or {}, threads, gpu=allocation.gpus > 0, data=data)
    return WorkerPool(
        setup,
        allocation,
        label,
        measure_gpus=allocator.measures_gpus,
        look=allocator.allocate if allocator.can_change else None,
        start_timeout=allocator.timeout,
    )
