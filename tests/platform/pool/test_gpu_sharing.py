"""How many workers share a GPU, on GPUs that are numbers."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from atoll.platform.pool.gpu_sharing import LARGEST_CONTEXT, MARGIN, GpuSharing, SharedGpu
from atoll.platform.worker.gpu_memory import MemoryReading

GIB = 2**30


@dataclass
class Device:
    """A GPU: what each process holds of it, in bytes."""

    total: int
    context: int
    foreign: int = 0
    held: dict[str, int] = field(default_factory=dict)

    @property
    def free(self) -> int:
        return self.total - self.foreign - sum(self.held.values())

    def needs(self, worker: str, count: int) -> bool:
        """Let a process hold so much beside its context; False if there is no room."""
        before = self.held.get(worker, 0)
        after = max(before, count + self.context)
        if after - before > self.free:
            return False
        self.held[worker] = after
        return True

    def reading(self, worker: str) -> MemoryReading:
        reserved = self.held[worker] - self.context
        return MemoryReading(reserved, reserved, self.free, self.total)


def test_as_many_work_as_fit_by_what_the_first_needed() -> None:
    device = Device(24 * GIB, GIB // 2)
    gpu = SharedGpu(8, is_measured=True)
    assert gpu.admits("a")
    gpu.enter("a")
    assert not gpu.admits("b")
    assert device.needs("a", 5 * GIB)
    gpu.ended("a", device.reading("a"))
    assert gpu.context == GIB // 2
    assert gpu.allowed == int(24 * (1 - MARGIN) // 5.5) == 3


def test_what_other_programs_hold_is_not_shared_out() -> None:
    device = Device(24 * GIB, GIB // 2, foreign=10 * GIB)
    gpu = SharedGpu(8, is_measured=True)
    gpu.enter("a")
    assert device.needs("a", 5 * GIB)
    gpu.ended("a", device.reading("a"))
    assert gpu.context == LARGEST_CONTEXT
    assert gpu.allowed == 2


def test_a_larger_chunk_later_makes_them_fewer_and_the_surplus_is_named() -> None:
    device = Device(24 * GIB, GIB // 2)
    gpu = SharedGpu(8, is_measured=True)
    for worker, need in (("a", 2), ("b", 2), ("c", 7)):
        assert gpu.admits(worker)
        gpu.enter(worker)
        assert device.needs(worker, need * GIB)
        gpu.ended(worker, device.reading(worker))
    assert gpu.allowed == 2
    assert gpu.is_surplus("a")
    gpu.leave("a")
    assert not gpu.is_surplus("b")
    assert not gpu.admits("a")


def test_an_evaluation_before_the_first_chunk_does_not_decide() -> None:
    device = Device(24 * GIB, GIB // 2)
    gpu = SharedGpu(8, is_measured=True)
    gpu.enter("a")
    assert device.needs("a", GIB)
    gpu.ended("a", device.reading("a"), decides=False)
    assert gpu.allowed == 1
    assert device.needs("a", 5 * GIB)
    gpu.ended("a", device.reading("a"))
    assert gpu.allowed == 3


def test_workers_that_touch_no_gpu_are_not_held_back() -> None:
    gpu = SharedGpu(4, is_measured=True)
    gpu.enter("a")
    gpu.ended("a", None)
    assert gpu.allowed == 4


def test_a_share_that_was_asked_for_is_kept_until_one_runs_out() -> None:
    device = Device(8 * GIB, 0)
    gpu = SharedGpu(4, is_measured=False)
    assert gpu.allowed == 4
    for worker in "abc":
        gpu.enter(worker)
    assert device.needs("a", 3 * GIB)
    gpu.ended("a", device.reading("a"))
    assert gpu.allowed == 4
    assert not gpu.out_of_memory("b")
    assert (gpu.allowed, gpu.back_offs) == (2, 1)


def test_only_a_fresh_process_on_an_empty_gpu_says_that_a_job_never_fits() -> None:
    gpu = SharedGpu(2, is_measured=False)
    gpu.enter("a")
    gpu.ended("a", None)
    assert not gpu.out_of_memory("a")
    assert gpu.allowed == 2
    gpu.enter("b")
    assert not gpu.out_of_memory("b"), "what the process before held may not be free yet"
    gpu.enter("c")
    assert gpu.out_of_memory("c")


def test_gpus_of_several_nodes_are_counted_apart() -> None:
    sharing = GpuSharing(0.5, is_measured=False)
    for worker, node, ids in (("a", "n1", ["0"]), ("b", "n1", ["0"]), ("c", "n2", ["0"])):
        sharing.place(worker, node, ids)
        sharing.enter(worker)
    assert not sharing.out_of_memory("b")
    assert [(f["gpu"], f["workers"], f["back_offs"]) for f in sharing.facts()] == [
        ("GPU 0 of node n1", 1, 1),
        ("GPU 0 of node n2", 2, 0),
    ]
    sharing.leave("a")
    assert sharing.admits("c")
    assert GpuSharing(0.0, is_measured=True).admits("anybody")
    assert GpuSharing(0.0, is_measured=True).facts() == []


@pytest.mark.parametrize(
    ("share", "slots"), [(0.25, 4), (0.3333, 3), (0.1428, 7), (1.0, 1), (2, 1)]
)
def test_a_share_says_how_many_are_placed(share: float, slots: int) -> None:
    sharing = GpuSharing(share, is_measured=False)
    sharing.place("a", "node", ["0"])
    assert sharing.facts()[0]["slots"] == slots


@settings(max_examples=300)
@given(
    needs=st.lists(st.integers(1, 1100), min_size=1, max_size=14),
    slots=st.integers(1, 5),
    context=st.integers(0, 60),
    foreign=st.integers(0, 300),
    is_measured=st.booleans(),
    data=st.data(),
)
@pytest.mark.slow
def test_every_job_that_fits_alone_is_done_and_only_the_others_are_refused(
    needs: list[int],
    slots: int,
    context: int,
    foreign: int,
    is_measured: bool,
    data: st.DataObject,
) -> None:
    """The pool's use of a GPU, in whatever order its workers end, start anew and run out."""
    device, gpu = Device(1000, context, foreign), SharedGpu(slots, is_measured=is_measured)
    idle, queue = [f"w{n}" for n in range(slots)], deque(enumerate(needs))
    running: dict[str, tuple[int, int]] = {}
    done, refused, started, steps = set(), set(), slots, 0

    def start_anew(worker: str) -> None:
        nonlocal started
        gpu.leave(worker)
        device.held.pop(worker, None)
        idle.append(f"w{started}")
        started += 1

    while queue or running:
        steps += 1
        assert steps < 40 * (len(needs) + slots), "it continues for ever"
        for worker in [w for w in idle if queue and gpu.admits(w)]:
            if queue and gpu.admits(worker):
                gpu.enter(worker)
                idle.remove(worker)
                running[worker] = queue.popleft()
        assert running, "nobody may work, and there is work"
        worker = data.draw(st.sampled_from(sorted(running)))
        job, need = running.pop(worker)
        allowed = gpu.allowed
        if device.needs(worker, need):
            gpu.ended(worker, device.reading(worker))
            done.add(job)
            idle.append(worker)
        elif gpu.out_of_memory(worker):
            assert need + context > 1000 - foreign
            refused.add(job)
            start_anew(worker)
        else:
            queue.appendleft((job, need))
            start_anew(worker)
            assert gpu.allowed <= allowed
        for worker in [w for w in idle if gpu.is_surplus(w)]:
            if gpu.is_surplus(worker):
                idle.remove(worker)
                start_anew(worker)
        assert 1 <= gpu.allowed <= slots
    assert refused == {job for job, need in enumerate(needs) if need + context > 1000 - foreign}
    assert done == set(range(len(needs))) - refused
