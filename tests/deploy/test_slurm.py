"""The Slurm scripts: by ShellCheck, and run with what stands for Slurm's commands.

There is no Slurm here, and "ray symmetric-run" ends with "ray stop", which would stop every Ray of
the machine. So srun and scontrol are stand-ins, and so is ray: it takes the arguments apart with
the real command's own parser and runs what comes after "--" on the Ray that is there. The real one
runs in tests/platform/cluster/test_symmetric_run.py.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import ray

from tests.support.paths import ROOT

SCRIPTS = sorted((ROOT / "deploy" / "slurm").glob("*.sbatch"))
EXPERIMENT = """
[run]
name = "slurm"
rounds = 100000
checkpoint_every = 100000
[data]
dataset = "digits"
clients = 6
[model]
name = "linear"
[ray]
workers = 1
"""
SCONTROL = """#!/usr/bin/env bash
if [ "$1" = show ]; then echo 127.0.0.1; fi
if [ "$1" = requeue ]; then
    echo "$2" >"$STAND_IN/requeued"
    # Slurm signals every process of a step.
    pkill -TERM -P "$(cat "$STAND_IN/pid")"
    kill -TERM "$(cat "$STAND_IN/pid")" 2>/dev/null
fi
exit 0
"""
SRUN = """#!/usr/bin/env bash
# As of Slurm 22.05, a step has one CPU unless this says otherwise.
test "$SRUN_CPUS_PER_TASK" = 2 || exit 99
echo "$$" >"$STAND_IN/pid"
exec "$@"
"""
RAY = """#!{python}
import os, sys
from ray.scripts import symmetric_run as command
arguments = sys.argv[2:]
assert sys.argv[1] == "symmetric-run"
place = arguments.index("--")
options = command.symmetric_run.make_context("_", arguments[:place], resilient_parsing=True).params
assert options["address"] == f"127.0.0.1:{{20000 + 12345 % 10000}}"
assert options["min_nodes"] == 1
started = command.curate_and_validate_ray_start_args(arguments[:place])
assert started == ["--num-cpus", "2", "--num-gpus", "0"], started
run = arguments[place + 1:]
assert run[:2] == ["env", "RAY_ADDRESS=" + options["address"]]
run[1] = "RAY_ADDRESS=" + os.environ["TEST_RAY"]
os.execvp(run[0], run)
"""
PYTHON = '#!/usr/bin/env bash\nexec "{python}" "$@"\n'


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_the_shell_finds_nothing_wrong(script: Path) -> None:
    subprocess.run(["bash", "-n", script], check=True)
    found = Path(sys.executable).with_name("shellcheck")
    shellcheck = found if found.exists() else shutil.which("shellcheck")
    if shellcheck is None:
        pytest.skip("there is no ShellCheck")
    done = subprocess.run([shellcheck, script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


@pytest.fixture
def slurm(tmp_path: Path) -> dict[str, str]:
    """An environment as Slurm gives it, with the stand-ins first in the path."""
    stand_in = tmp_path / "bin"
    stand_in.mkdir()
    scripts = {"scontrol": SCONTROL, "srun": SRUN, "ray": RAY, "python": PYTHON}
    for name, text in scripts.items():
        is_template = name in ("ray", "python")
        text = text.format(python=sys.executable) if is_template else text
        (stand_in / name).write_text(text)
        (stand_in / name).chmod(0o755)
    (tmp_path / "slurm.toml").write_text(EXPERIMENT)
    return {
        **os.environ,
        "PATH": f"{stand_in}:{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
        "STAND_IN": str(stand_in),
        "PYTHON": str(stand_in / "python"),
        "EXPERIMENT": str(tmp_path / "slurm.toml"),
        "OUT": str(tmp_path / "out"),
        "TMPDIR": str(tmp_path),
        "SLURM_JOB_ID": "12345",
        "SLURM_JOB_NODELIST": "node-1",
        "SLURM_JOB_NUM_NODES": "1",
        "SLURM_CPUS_PER_TASK": "2",
        "SLURM_ARRAY_TASK_ID": "3",
    }


@pytest.mark.ray
@pytest.mark.long
def test_a_run_whose_time_is_up_is_requeued_and_continues(
    slurm: dict[str, str], cluster: None
) -> None:
    slurm["TEST_RAY"] = ray.get_runtime_context().gcs_address
    out = Path(slurm["OUT"])
    script = [str(ROOT / "deploy" / "slurm" / "train.sbatch")]
    process = subprocess.Popen(["bash", *script], env=slurm, cwd=ROOT, stdout=subprocess.PIPE)
    deadline = time.monotonic() + 120
    while not (out / "rounds.parquet").exists():
        assert time.monotonic() < deadline
        assert process.poll() is None
        time.sleep(0.05)
    process.send_signal(signal.SIGUSR1)
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 130
    assert b"the time is up; requeued" in output
    assert (Path(slurm["STAND_IN"]) / "requeued").read_text() == "12345\n"
    [checkpoint] = (out / "checkpoints").iterdir()
    ended = int(checkpoint.name.removeprefix("round-"))
    options = f"--set run.rounds={ended + 1}"
    subprocess.run(["bash", *script], env={**slurm, "OPTIONS": options}, cwd=ROOT, check=True)
    rounds = pq.read_table(out / "rounds.parquet").column("round").to_pylist()
    assert rounds == list(range(1, ended + 2))


@pytest.mark.ray
def test_an_array_runs_a_seed_a_task_and_passes_on_what_failed(slurm: dict[str, str]) -> None:
    script = str(ROOT / "deploy" / "slurm" / "array-sweep.sbatch")
    # It would start a Ray of its own; what it asks for is enough here.
    shown = Path(slurm["STAND_IN"]) / "python"
    shown.write_text('#!/usr/bin/env bash\necho "$@"\nexit "${CODE:-0}"\n')
    for code in (0, 2, 130):
        done = subprocess.run(
            ["bash", script],
            env={**slurm, "CODE": str(code), "OPTIONS": "--set run.rounds=3"},
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == code, done.stderr
        out = f"{slurm['OUT']}/seed-3"
        assert done.stdout.split() == [
            *("-m", "atoll", "run", slurm["EXPERIMENT"], "--out", out, "--resume"),
            *("--set", "run.seed=3", "--workers", "2", "--set", "run.rounds=3"),
        ]
        assert (Path(slurm["STAND_IN"]) / "requeued").exists() == (code == 130)
