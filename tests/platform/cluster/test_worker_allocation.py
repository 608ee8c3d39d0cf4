"""How many workers a run has: as many as the cluster holds, but none that could never have work."""

from __future__ import annotations

from typing import Any

import pytest

from atoll.platform.cluster.connection import Allocation
from atoll.platform.cluster.worker_allocation import Room


class EightCpus:
    """A cluster that was started here, with eight CPUs."""

    started = True

    def allocate(self, workers: int | str, cpus: float, gpus: float | str) -> Allocation:
        return Allocation(8 if workers == "auto" else int(workers), cpus, 0.0)


@pytest.mark.parametrize(
    ("workers", "most", "expected"), [("auto", 2, 2), ("auto", 20, 8), ("auto", None, 8), (4, 2, 4)]
)
def test_auto_is_at_most_as_many_workers_as_could_have_work(
    workers: Any, most: int | None, expected: int
) -> None:
    cluster: Any = EightCpus()
    assert Room(cluster, workers, 1.0, 0.0, most=most).first().workers == expected
