"""deploy/slurm/train.sbatch over two nodes, with Ray's own symmetric-run and without Slurm.

A node is a network, its processes and its /tmp, apart from all others: what "ray stop" stops at the
end is on the node. Only srun and scontrol are stand-ins.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from atoll.platform.run_directory.checkpoint import CheckpointStore
from atoll.platform.runs.federation_run import run
from tests.support.clusters.node_cluster import ENVIRONMENT, in_private_network, namespaces_allowed
from tests.support.paths import ROOT

pytestmark = pytest.mark.ray

EXPERIMENT = """
[run]
name = "slurm"
rounds = 40
[data]
dataset = "digits"
clients = 6
[model]
name = "linear"
[ray]
workers = 2
cpus_per_worker = 1
"""
SCONTROL = """#!/usr/bin/env bash
# The shell writes each name when it comes to it: a reader who leaves after the first is noticed.
for node in 2 3; do
    echo "10.77.0.$node"
    sleep 0.1
done
"""
# A node's first process is a shell, which, unlike "ray", takes leave of processes that have ended.
SRUN = """#!/usr/bin/env bash
for number in 2 3; do
    ip netns add "n$number"
    ip link add "v$number" type veth peer name eth0 netns "n$number"
    ip link set "v$number" master nodes up
    ip -n "n$number" addr add "10.77.0.$number/24" dev eth0
    ip -n "n$number" link set eth0 up
    ip -n "n$number" link set lo up
    ip netns exec "n$number" unshare --pid --fork --kill-child --mount --mount-proc \\
        bash -c 'mount -t tmpfs tmpfs "$TMPDIR" && "$@"; exit "$?"' bash "$@" \\
        >"$OUT.$number" 2>&1 &
    tasks+=($!)
done
wait "${tasks[0]}" && code=0 || code=$?
# The other node would look for its head for a minute.
kill -KILL "${tasks[1]}"
exit "$code"
"""


@pytest.mark.skipif(
    "ATOLL_SYMMETRIC_RUN" not in os.environ,
    reason="ATOLL_SYMMETRIC_RUN is not set: it takes a minute",
)
@pytest.mark.skipif(not namespaces_allowed(), reason="network namespaces are not allowed here")
def test_a_job_runs_on_all_of_its_nodes(tmp_path: Path, cluster: None) -> None:
    stand_in, out = tmp_path / "bin", tmp_path / "out"
    stand_in.mkdir()
    for name, text in {"scontrol": SCONTROL, "srun": SRUN}.items():
        (stand_in / name).write_text(text)
        (stand_in / name).chmod(0o755)
    (tmp_path / "slurm.toml").write_text(EXPERIMENT)
    # Sockets lie in it, whose paths must be short.
    folder = Path(f"/tmp/j{os.getpid()}")
    folder.mkdir()
    environment = {
        **ENVIRONMENT,
        "PATH": f"{stand_in}:{os.environ['PATH']}",
        "PYTHON": sys.executable,
        "EXPERIMENT": str(tmp_path / "slurm.toml"),
        "OUT": str(out),
        "TMPDIR": str(folder),
        "SLURM_JOB_ID": "12345",
        "SLURM_JOB_NODELIST": "node-[2-3]",
        "SLURM_JOB_NUM_NODES": "2",
        "SLURM_CPUS_PER_TASK": "1",
    }
    script = ["bash", str(ROOT / "deploy" / "slurm" / "train.sbatch")]
    done = subprocess.run(
        in_private_network(script), env=environment, cwd=ROOT, check=False, timeout=250
    )
    said = {n: Path(f"{out}.{n}").read_text(errors="replace") for n in (2, 3)}
    shutil.rmtree(folder)
    assert done.returncode == 0, said
    assert "On head node" in said[2]
    assert "On head node" not in said[3]
    stored = CheckpointStore(out / "checkpoints").latest()
    assert stored is not None
    undisturbed = run(tmp_path / "slurm.toml", out=tmp_path / "here")
    assert all(
        (array.numpy() == undisturbed.arrays[key].numpy()).all()
        for key, array in stored.arrays.items()
    )
    workers = set(pq.read_table(out / "clients.parquet")["worker"].to_pylist())
    assert workers == {"worker-0", "worker-1"}
