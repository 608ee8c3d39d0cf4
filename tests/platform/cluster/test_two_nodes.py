"""Workers on a cluster of two nodes: as many as its CPUs and GPUs allow, on each of them."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from ray._private import services

from atoll.errors import InvalidExperimentError
from atoll.platform.cluster import connection as cluster
from atoll.platform.cluster.capacity import Allocation, WorkerRequest, allocate
from tests.support.clusters.probing import environment_without_ray, found_by
from tests.support.paths import CLUSTERS, ROOT

pytestmark = pytest.mark.ray

PROBE = CLUSTERS / "cluster_probe.py"


@pytest.fixture(scope="module")
def found() -> dict[str, Any]:
    return found_by([sys.executable, PROBE])


@pytest.mark.long
def test_every_cpu_of_every_node_has_a_worker(found: dict[str, Any]) -> None:
    assert found["cpus"]["workers"] == 5
    assert len({place["pid"] for place in found["cpus"]["places"]}) == 5
    assert len({place["node"] for place in found["cpus"]["places"]}) == 2


@pytest.mark.long
def test_workers_share_gpus_by_fractions(found: dict[str, Any]) -> None:
    assert found["gpus"]["workers"] == 4
    seen = {(place["node"], place["pid"]): place["gpus"] for place in found["gpus"]["places"]}
    assert len(seen) == 4
    assert set(seen.values()) == {"0"}
    assert len({node for node, _ in seen}) == 2


@pytest.mark.long
def test_a_worker_never_spans_nodes(found: dict[str, Any]) -> None:
    assert found["large"]["workers"] == 2
    assert "ray.cpus_per_worker = 4" in found["refused"]
    assert "2 CPU, 1 GPU; 3 CPU, 1 GPU" in found["refused"]


@pytest.mark.parametrize("workers", ["auto", 3])
def test_a_head_without_cpus_that_no_worker_has_joined_is_refused(
    monkeypatch: pytest.MonkeyPatch, workers: Any
) -> None:
    head = {"Alive": True, "NodeID": "head", "Resources": {"CPU": 0.0, "memory": 1e9}}
    monkeypatch.setattr("atoll.platform.cluster.capacity.ray.nodes", lambda: [head])
    with pytest.raises(InvalidExperimentError, match=r"no node .* has as much \(0 CPU, 0 GPU\)"):
        allocate(WorkerRequest(workers, 1.0, 0.0))


def test_a_ray_that_cannot_start_is_an_error_in_one_line(tmp_path: Path) -> None:
    # Its sockets' names would be longer than Linux allows.
    crowded = tmp_path / ("x" * 100)
    crowded.mkdir()
    environment = {**environment_without_ray(), "RAY_TMPDIR": str(crowded)}
    done = subprocess.run(
        [sys.executable, "-m", "atoll", "run", ROOT / "experiments/quickstart.toml"],
        env=environment,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert done.returncode == 1
    assert "error: Ray did not start on this machine" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_raylet_has_longer_to_start_than_ray_would_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def get_node(head: str, node: str) -> str:
        asked.append(node)
        if len(asked) < 3 or head == "dead":
            raise RuntimeError("no such node")
        return node

    monkeypatch.setattr(services, "get_node", get_node)
    with cluster.patient_start():
        assert services.get_node("head", "node") == "node"
        assert len(asked) == 3
        monkeypatch.setattr(cluster, "START_SECONDS", 0.2)
        with pytest.raises(RuntimeError, match="no such node"):
            services.get_node("dead", "node")
    assert services.get_node is get_node


@pytest.mark.parametrize(
    ("nodes", "workers", "expected"),
    [
        ([(16, 2)], "auto", Allocation(16, 1.0, 0.125)),
        ([(7, 2)], "auto", Allocation(6, 1.0, 0.3333)),
        ([(64, 1)], "auto", Allocation(16, 1.0, 0.0625)),
        ([(4, 0), (4, 1)], "auto", Allocation(4, 1.0, 0.25)),
        ([(1, 2)], "auto", Allocation(1, 1.0, 1.0)),
        ([(16, 2)], 3, Allocation(3, 1.0, 0.5)),
        ([(2, 1)], 4, Allocation(4, 0.5, 0.25)),
        ([(3, 0)], "auto", Allocation(3, 1.0, 0.0)),
    ],
)
def test_the_share_of_a_gpu_lets_a_worker_have_each_cpu_beside_it(
    monkeypatch: pytest.MonkeyPatch, nodes: Any, workers: Any, expected: Allocation
) -> None:
    found = [
        {"Alive": True, "NodeID": str(index), "Resources": {"CPU": float(c), "GPU": float(g)}}
        for index, (c, g) in enumerate(nodes)
    ]
    monkeypatch.setattr("atoll.platform.cluster.capacity.ray.nodes", lambda: found)
    allocation = allocate(WorkerRequest(workers, 1.0, "auto"))
    assert allocation == replace(expected, nodes=frozenset(map(str, range(len(nodes)))))


@pytest.mark.parametrize(
    ("workers", "cpus", "message"),
    [
        (30_000, 1.0, r"ray.workers = 30000: .* less than 0.0001 CPU each, .*\(2 CPU, 0 GPU\)"),
        ("auto", 5e-5, r"ray.cpus_per_worker = 5e-05: Ray counts CPUs in units of 0.0001"),
        (1, 5e-5, r"ray.cpus_per_worker = 5e-05: Ray counts CPUs in units of 0.0001"),
    ],
)
def test_a_share_that_ray_cannot_count_is_refused(
    monkeypatch: pytest.MonkeyPatch, workers: Any, cpus: float, message: str
) -> None:
    node = {"Alive": True, "NodeID": "0", "Resources": {"CPU": 2.0}}
    monkeypatch.setattr("atoll.platform.cluster.capacity.ray.nodes", lambda: [node])
    with pytest.raises(InvalidExperimentError, match=message):
        allocate(WorkerRequest(workers, cpus, 0.0))
    # As many as there are units, and shares are whole units.
    assert allocate(WorkerRequest(20_000, 1.0, 0.0)).cpus == 1e-4
    assert allocate(WorkerRequest(1_000, 1.0, 0.0)).cpus == 0.0019
