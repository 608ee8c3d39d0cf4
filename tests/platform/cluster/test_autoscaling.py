"""A run on a cluster with an autoscaler: Ray's own, whose nodes are raylets of this machine."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest
import ray
import yaml

from atoll.platform.cluster.autoscaler import AutoscalerReport, NoAutoscaler, report_of_v1
from tests.support.clusters.node_cluster import ENVIRONMENT, in_private_network, namespaces_allowed
from tests.support.clusters.probing import found_by
from tests.support.paths import CLUSTERS

pytestmark = pytest.mark.ray

PROBE = CLUSTERS / "autoscaling_probe.py"
PROVIDER = Path(ray.__file__).parent / "autoscaler" / "_private" / "fake_multi_node"
COMMANDS = (
    *("initialization", "setup", "head_setup", "worker_setup"),
    *("head_start_ray", "worker_start_ray"),
)
# Ray's wheels lack this file of the fake provider.
EXAMPLE = {
    "cluster_name": "fake",
    "max_workers": 2,
    "provider": {
        "type": "fake_multinode",
        "use_node_id_as_ip": True,
        "disable_node_updaters": True,
        "disable_launch_config_check": True,
    },
    "available_node_types": {"ray.head.default": {"resources": {}, "node_config": {}}},
    "head_node_type": "ray.head.default",
    **{key: {} for key in ("auth", "docker", "file_mounts")},
    **{key: [] for key in ("cluster_synced_files", "rsync_exclude", "rsync_filter")},
    **{f"{what}_commands": [] for what in COMMANDS},
}
# Every address must have a way there: Ray finds its own by the way that it would take.
SCRIPT = 'ip route add default dev nodes && mount --bind "$1" "$2" && shift 2 && exec "$@"'


# KubeRay and "ray up" have v2; v1 is what Ray had before, and takes as long again.
IS_SLOW = "ATOLL_AUTOSCALER_SLOW" in os.environ
VERSIONS = ["v2", "v1"] if IS_SLOW else ["v2"]


@pytest.fixture(scope="module", params=VERSIONS)
def found(request: pytest.FixtureRequest) -> dict[str, Any]:
    return {"version": request.param, **found_on_a_cluster(request.param)}


def found_on_a_cluster(what: str) -> dict[str, Any]:
    if not namespaces_allowed():
        pytest.skip("namespaces are not allowed here, and the cluster stops every Ray that it sees")
    # Sockets lie in it, whose paths must be short.
    folder = Path(tempfile.mkdtemp(prefix="a"))
    shutil.copytree(PROVIDER, folder / "f")
    (folder / "f" / "example.yaml").write_text(yaml.safe_dump(EXAMPLE))
    command = ["sh", "-c", SCRIPT, "sh", str(folder / "f"), str(PROVIDER)]
    path = f"{Path(sys.executable).parent}:{ENVIRONMENT['PATH']}"
    try:
        return found_by(
            in_private_network([*command, sys.executable, str(PROBE), what]),
            {**ENVIRONMENT, "PATH": path, "RAY_TMPDIR": str(folder)},
            timeout=500,
        )
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@pytest.mark.long
def test_a_cluster_without_processors_is_waited_for_and_used(found: dict[str, Any]) -> None:
    assert found["at_first"] == 0
    assert found["workers_at_first"] >= 1
    [waited, *_] = found["said"]
    assert "waiting up to 900 s for nodes that hold a worker of 1 CPU" in waited


@pytest.mark.long
def test_as_many_nodes_come_as_the_run_could_use_and_the_autoscaler_has(
    found: dict[str, Any],
) -> None:
    assert found["workers"] == found["used"] == 2
    assert found["still_there"] == 2


@pytest.mark.long
def test_what_no_node_has_is_an_error_that_says_so(found: dict[str, Any]) -> None:
    what = (
        "ray.cpus_per_worker = 2, ray.gpus_per_worker = 0: no node of this Ray cluster has as much"
    )
    late, never = found["late"], found["never"]
    assert what in late
    assert what in never
    assert "its autoscaler has brought no such node within ray.nodes_timeout = 0.01 s (" in late
    # One that does not say what it cannot bring is waited for in vain.
    assert ("nor can its autoscaler bring such a node" in never) == (found["version"] == "v2")


@pytest.mark.long
def test_nodes_are_let_go_when_the_grid_closes(found: dict[str, Any]) -> None:
    assert found["coming_at_last"] == 0


@pytest.mark.long
def test_as_many_workers_work_as_fit_where_more_are_asked_for(found: dict[str, Any]) -> None:
    # The others wait for nodes, and share no CPU meanwhile.
    assert found["given"] == {"workers": 2, "nodes": 2}


@pytest.mark.long
def test_nodes_with_labels_come_for_a_label_selector(found: dict[str, Any]) -> None:
    # Ray's older autoscaler does not look at labels.
    assert found["labelled"] == (["b"] if found["version"] == "v2" else None)


@pytest.mark.long
def test_the_nodes_of_a_killed_driver_are_let_go(found: dict[str, Any]) -> None:
    assert found["let_go_when_killed"]


def status(active: dict[str, int], **rest: Any) -> dict[str, Any]:
    """A v1 monitor's status, as "ray start" wrote it here."""
    report = {
        "active_nodes": active,
        "idle_nodes": None,
        "pending_nodes": [],
        "pending_launches": {},
        "node_availability_summary": {"node_availabilities": {}},
    }
    return {"autoscaler_report": report | rest}


def test_a_monitor_of_nodes_that_were_started_by_hand_is_no_autoscaler() -> None:
    assert report_of_v1({}) is None
    assert report_of_v1(status({})) is None
    assert report_of_v1(status({"node_0f2a": 1, "node_77aa": 1})) == NoAutoscaler()
    assert report_of_v1(status({"head": 1})) == AutoscalerReport()


def test_what_comes_and_what_cannot_be_had_is_read() -> None:
    reason = {"category": "InsufficientInstanceCapacity", "description": "none left"}
    availability = {"spot": {"node_type": "spot", "unavailable_node_information": reason}}
    report = report_of_v1(
        status(
            {"head": 1},
            pending_nodes=[["10.0.0.2", "spot", "setting-up"]],
            pending_launches={"spot": 2},
            node_availability_summary={"node_availabilities": availability},
        )
    )
    failures = ("spot: InsufficientInstanceCapacity (none left)",)
    assert report == AutoscalerReport({"spot": 3}, failures)
