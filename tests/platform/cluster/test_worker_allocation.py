"""How many workers a run has: as many as the cluster holds, but none that could never have work."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from atoll.errors import InvalidExperimentError
from atoll.platform.cluster import worker_allocation
from atoll.platform.cluster.autoscaler import AutoscalerReport, NoAutoscaler
from atoll.platform.cluster.capacity import WorkerRequest
from atoll.platform.cluster.worker_allocation import MOST_AWAITING, WorkerAllocator


def cluster_of(
    monkeypatch: pytest.MonkeyPatch, *cpus: float, said: AutoscalerReport | NoAutoscaler | None
) -> Any:
    """A cluster of nodes with so many CPUs; ``said`` is what its monitor says."""
    nodes = [
        {"Alive": True, "NodeID": str(place), "Resources": {"CPU": count}, "Labels": {}}
        for place, count in enumerate(cpus)
    ]
    monkeypatch.setattr("atoll.platform.cluster.capacity.ray.nodes", lambda: nodes)
    monkeypatch.setattr(worker_allocation, "read_report", lambda: said)
    return SimpleNamespace(started=said is None)


@pytest.mark.parametrize(
    ("workers", "most", "expected"), [("auto", 2, 2), ("auto", 20, 8), ("auto", None, 8), (4, 2, 4)]
)
def test_auto_is_at_most_as_many_workers_as_could_have_work(
    monkeypatch: pytest.MonkeyPatch, workers: Any, most: int | None, expected: int
) -> None:
    cluster = cluster_of(monkeypatch, 3.0, 5.0, said=None)
    allocator = WorkerAllocator(cluster, WorkerRequest(workers), most=most)
    assert allocator.wait().workers == expected


@pytest.mark.parametrize(
    ("workers", "could_use", "most", "awaiting"),
    [
        ("auto", 5, None, 3),
        ("auto", 5, 4, 2),
        ("auto", 1, None, 0),
        (4, 1, None, 2),
        (2, 9, None, 0),
        ("auto", 9_999, None, MOST_AWAITING),
    ],
)
def test_where_an_autoscaler_is_workers_that_would_have_work_wait_for_nodes(
    monkeypatch: pytest.MonkeyPatch, workers: Any, could_use: int, most: int | None, awaiting: int
) -> None:
    cluster = cluster_of(monkeypatch, 2.0, said=AutoscalerReport())
    allocator = WorkerAllocator(cluster, WorkerRequest(workers), most=most)
    allocator.could_use = could_use
    found = allocator.allocate()
    assert (found.workers, found.cpus, found.awaiting_nodes) == (2, 1.0, awaiting)


def test_where_there_is_no_autoscaler_workers_share_the_cpus_and_none_waits(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    cluster = cluster_of(monkeypatch, 2.0, said=NoAutoscaler())
    found = WorkerAllocator(cluster, WorkerRequest(4)).allocate()
    assert (found.workers, found.cpus, found.awaiting_nodes) == (4, 0.5, 0)
    with pytest.raises(InvalidExperimentError, match=r"no node .* has as much \(2 CPU, 0 GPU\)$"):
        WorkerAllocator(cluster, WorkerRequest("auto", 3.0)).wait()


def test_what_a_worker_takes_of_a_gpu_stays_as_it_was_when_the_run_began(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    cluster = cluster_of(monkeypatch, 8.0, said=NoAutoscaler())
    allocator = WorkerAllocator(cluster, WorkerRequest())
    assert allocator.wait().workers == 8
    gpus = {"Alive": True, "NodeID": "new", "Resources": {"CPU": 1.0, "GPU": 1.0}}
    nodes = [*worker_allocation.ray.nodes(), gpus]
    monkeypatch.setattr("atoll.platform.cluster.capacity.ray.nodes", lambda: nodes)
    found = allocator.allocate()
    assert (found.workers, found.gpus) == (9, 0.0)
