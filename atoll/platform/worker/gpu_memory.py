"""Readings of a GPU's memory in a worker's process: the only use of ``torch.cuda``.

How many workers share a GPU follows from them in :mod:`atoll.platform.pool.gpu_sharing`, which
needs no GPU.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

# What else PyTorch raises when a GPU has no room left, beside its own OutOfMemoryError: CUDA's
# libraries allocate by themselves.
SIGNS = (
    "CUDA error: out of memory",
    "CUBLAS_STATUS_ALLOC_FAILED",
    "CUDNN_STATUS_ALLOC_FAILED",
    "CUSOLVER_STATUS_ALLOC_FAILED",
)


@dataclass(frozen=True)
class MemoryReading:
    """Memory of a worker's GPU at a job's end, in bytes.

    Attributes
    ----------
    peak : int
        The most that PyTorch has reserved in this process.
    reserved : int
        What it has reserved now.
    free, total : int
        Free memory of the GPU; the rest is held by any process.
    """

    peak: int
    reserved: int
    free: int
    total: int


@dataclass(frozen=True)
class Shortage:
    """A job that ran out of GPU memory.

    Attributes
    ----------
    what : str
        What did not fit: "node 3", or a function's name.
    at_once : int
        Clients that trained vectorised; 1 if one did alone.
    text : str
        What PyTorch said, in one line.
    """

    what: str
    at_once: int
    text: str


@dataclass(frozen=True)
class OnGpu:
    """The result of a job on a worker that has a share of a GPU.

    Attributes
    ----------
    value : object
        What the job returned; None if it ran out of memory.
    memory : MemoryReading or None
        None if the process holds no memory of a GPU.
    shortage : Shortage or None
        Why there is no value.
    """

    value: Any
    memory: MemoryReading | None
    shortage: Shortage | None = None


class OutOfGpuMemoryError(Exception):
    """Clients that did not fit: no fault of theirs, so it is no error reply.

    Parameters
    ----------
    nodes : Sequence[int]
        Whose training it was; several where it is not known which.
    at_once : int
        How many of them trained vectorised.
    """

    def __init__(self, nodes: Sequence[int], at_once: int) -> None:
        one_of = "node" if len(nodes) == 1 else "one of nodes" if at_once == 1 else "nodes"
        super().__init__(f"{one_of} {', '.join(map(str, nodes))}")
        self.at_once = at_once


def is_out_of_memory(error: BaseException) -> bool:
    """Tell whether an exception says that a GPU has no room left."""
    if isinstance(error, OutOfGpuMemoryError):
        return True
    torch = sys.modules.get("torch")
    if torch is not None and isinstance(error, torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and any(sign in str(error) for sign in SIGNS)


@cache
def _make_ready() -> None:
    """Have PyTorch make its generators of random numbers on the GPU, which seeds then reach.

    It would make them when a client first uses the GPU, after it was seeded. Nothing is put on the
    GPU yet.
    """
    torch: Any = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        torch.cuda.init()


def run_on_gpu(what: str, work: Callable[[], Any]) -> OnGpu:
    """Do ``work`` and say what memory it took, or that there was not enough."""
    _make_ready()
    try:
        value = work()
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        at_once = 1
        if isinstance(error, OutOfGpuMemoryError):
            what, at_once = str(error), error.at_once
        return OnGpu(None, read_memory(), Shortage(what, at_once, _first_line(error)))
    return OnGpu(value, read_memory())


def read_memory() -> MemoryReading | None:
    """Return what this process and its GPU hold; None if the process has put nothing there."""
    torch: Any = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_initialized() or not torch.cuda.max_memory_reserved():
        return None
    free, total = torch.cuda.mem_get_info()
    return MemoryReading(
        torch.cuda.max_memory_reserved(), torch.cuda.memory_reserved(), free, total
    )


def forget_peak() -> None:
    """Release unused memory and reset the peak, which earlier work determined."""
    torch: Any = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_initialized():
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


def _first_line(error: BaseException) -> str:
    cause = error.__cause__ if isinstance(error, OutOfGpuMemoryError) and error.__cause__ else error
    lines = str(cause).strip().splitlines()
    return lines[0] if lines else type(cause).__name__
