"""Number of workers that share a GPU: from the memory that they need, and fewer when it runs out.

It holds no GPU and reads none: workers are names, memory is numbers, so every case can be tested.

A worker *holds* memory of its GPU from its first job to the end of its process (PyTorch keeps what
it was given, and the CUDA context stays). So it is holders that are counted, at work or not, and a
surplus worker is restarted and waits without a context.
"""

from __future__ import annotations

import logging
from typing import Any

from atoll.errors import EngineError
from atoll.platform.worker.gpu_memory import MemoryReading, Shortage

logger = logging.getLogger("atoll")

# The share of a GPU that is left free: peaks differ from chunk to chunk, and memory fragments.
MARGIN = 0.1
# PyTorch does not count a process's CUDA context and its libraries. What is taken beside PyTorch's
# own memory is taken for the context up to here, and for other programs' beyond.
LARGEST_CONTEXT = 2**30
# How often a job must find no room on an empty GPU before it is said not to fit: what a process
# held that was just ended takes a while to be given back.
TRIES = 2


class SharedGpu:
    """The workers on one GPU.

    Parameters
    ----------
    slots : int
        How many workers are placed on it at most.
    is_measured : bool
        Whether the first worker's need decides how many work; else all do, until they run out.

    Attributes
    ----------
    allowed : int
        How many workers may hold memory now.
    peak, context, total : int
        Bytes: a worker's largest need, its context's, and the GPU's; 0 before they are known.
    back_offs : int
        How often the workers were made fewer because one ran out of memory.
    """

    def __init__(self, slots: int, *, is_measured: bool) -> None:
        self.slots = slots
        self.peak = self.context = self.total = self.back_offs = 0
        self._failures = 0
        self._is_measured, self._is_decided = is_measured, False
        self._limit = slots
        self._usable: int | None = None
        # By worker, whether it has ended a job.
        self._holders: dict[str, bool] = {}
        self.allowed = 1 if is_measured else slots

    def admits(self, worker: str) -> bool:
        """Tell whether a worker may be given a job."""
        return worker in self._holders or len(self._holders) < self.allowed

    def enter(self, worker: str) -> None:
        """Take note that a worker is given a job: it holds memory from now on."""
        self._holders.setdefault(worker, False)

    def leave(self, worker: str) -> None:
        """Take note that a worker's process has ended."""
        self._holders.pop(worker, None)

    def is_surplus(self, worker: str) -> bool:
        """Tell whether a worker holds memory where fewer should."""
        return worker in self._holders and len(self._holders) > self.allowed

    def ended(self, worker: str, memory: MemoryReading | None, *, decides: bool = True) -> None:
        """Take note that a worker has ended a job.

        Parameters
        ----------
        worker : str
            The worker.
        memory : MemoryReading or None
            What it holds by now; None says that it needed no GPU.
        decides : bool
            Whether the job is one of those whose need decides how many work.
        """
        self._holders[worker] = True
        self._failures = 0
        self._is_decided |= decides
        if memory is not None:
            self.peak = max(self.peak, memory.peak)
            if self._usable is None:
                self._take_first(memory)
        if self._is_measured and self._is_decided:
            self.allowed = min(self._limit, self._capacity())

    def _take_first(self, memory: MemoryReading) -> None:
        beside = max(0, memory.total - memory.free - memory.reserved)
        self.context = min(beside, LARGEST_CONTEXT)
        # With other holders it is theirs too, and says nothing of other programs.
        others = beside - self.context if len(self._holders) == 1 else 0
        self.total = memory.total
        self._usable = int(memory.total * (1 - MARGIN)) - others

    def _capacity(self) -> int:
        if self._usable is None:
            return self.slots
        return max(1, self._usable // max(1, self.peak + self.context))

    def out_of_memory(self, worker: str) -> bool:
        """Take note that a worker ran out of memory, and that its process is ended.

        Returns
        -------
        bool
            Whether the GPU was empty but for this job, again: what did not fit then never will.
            If not, there are fewer workers from now on, or the job can be tried in a fresh process.
        """
        had_ended_a_job = self._holders.pop(worker, False)
        others = len(self._holders)
        if not others:
            self._failures += not had_ended_a_job
            if self._failures < TRIES:
                return False
            self._failures = 0
            return True
        self.back_offs += 1
        self._limit = min(self._limit, others)
        self.allowed = min(self.allowed, self._limit)
        return False


class GpuSharing:
    """The GPUs that a run's workers are on; without GPUs every worker is admitted.

    Parameters
    ----------
    share : float
        The share of a GPU that a worker takes in Ray's books; 0 without GPUs. A worker that has
        whole GPUs shares none.
    is_measured : bool
        Whether the first worker's need decides how many work on a GPU.
    """

    def __init__(self, share: float, *, is_measured: bool) -> None:
        self._slots = int(1 / share + 1e-9) if 0.0 < share < 1.0 else 1
        self._is_measured = is_measured
        self._gpus: dict[str, SharedGpu] = {}
        self._gpu_of: dict[str, str] = {}

    def place(self, worker: str, node: str, ids: list[str]) -> None:
        """Take note of which GPUs of which node a worker was given."""
        if not ids:
            return
        gpu = f"GPU {', '.join(ids)} of node {node[:8]}"
        self._gpu_of[worker] = gpu
        if gpu not in self._gpus:
            self._gpus[gpu] = SharedGpu(self._slots, is_measured=self._is_measured)

    def of(self, worker: str) -> SharedGpu | None:
        """Return the GPU that a worker has a share of."""
        gpu = self._gpu_of.get(worker)
        return None if gpu is None else self._gpus[gpu]

    def name_of(self, worker: str) -> str:
        """Return what a worker's GPU is called: its number and its node."""
        return self._gpu_of.get(worker, "a GPU")

    def admits(self, worker: str) -> bool:
        """Tell whether a worker may be given a job."""
        gpu = self.of(worker)
        return gpu is None or gpu.admits(worker)

    def enter(self, worker: str) -> None:
        """Take note that a worker is given a job."""
        gpu = self.of(worker)
        if gpu is not None:
            gpu.enter(worker)

    def leave(self, worker: str) -> None:
        """Take note that a worker's process has ended."""
        gpu = self.of(worker)
        if gpu is not None:
            gpu.leave(worker)
        self._gpu_of.pop(worker, None)

    def is_surplus(self, worker: str) -> bool:
        """Tell whether a worker holds memory of a GPU where fewer should."""
        gpu = self.of(worker)
        return gpu is not None and gpu.is_surplus(worker)

    def ended(self, worker: str, memory: MemoryReading | None, *, decides: bool = True) -> None:
        """Take note that a worker has ended a job; see :meth:`SharedGpu.ended`."""
        gpu = self.of(worker)
        if gpu is None:
            return
        before, was_known = gpu.allowed, gpu.peak > 0
        gpu.ended(worker, memory, decides=decides)
        if gpu.peak and (gpu.allowed != before or not was_known):
            logger.info(
                "%s: a worker needs %s, so %d at most work on it",
                self.name_of(worker),
                gibibytes(gpu.peak + gpu.context),
                gpu.allowed,
            )

    def out_of_memory(self, worker: str) -> bool:
        """Take note that a worker ran out of memory; see :meth:`SharedGpu.out_of_memory`."""
        gpu = self.of(worker)
        if gpu is None:
            return True
        was_empty = gpu.out_of_memory(worker)
        logger.warning(
            "%s ran out of memory on %s: %s",
            worker,
            self.name_of(worker),
            "which had nothing else to hold"
            if was_empty
            else f"at most {gpu.allowed} work on it from now on, and the job runs again",
        )
        return was_empty

    def facts(self) -> list[dict[str, Any]]:
        """Return what is known of each GPU, for ``engine.json``."""
        return [
            {
                "gpu": name,
                "workers": gpu.allowed,
                "slots": gpu.slots,
                "peak_bytes": gpu.peak,
                "context_bytes": gpu.context,
                "total_bytes": gpu.total,
                "back_offs": gpu.back_offs,
            }
            for name, gpu in sorted(self._gpus.items())
        ]


def gibibytes(count: int) -> str:
    """Return a number of bytes in GiB, as text."""
    return f"{count / 2**30:.2f} GiB"


def does_not_fit(shortage: Shortage, gpu: str) -> EngineError:
    """Return the error of a job that found no room on a GPU which it had for itself."""
    return EngineError(
        f"{shortage.what} alone does not fit into the memory of {gpu} ({shortage.text}); "
        "lower the batch size (client.batch_size) or take a smaller model, or free the "
        "GPU of other programs"
    )
