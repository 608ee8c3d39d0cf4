"""The command line as a user runs it: real processes, real data, real kills."""

from __future__ import annotations

import json
import logging
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import ray
from typer.testing import CliRunner

import atoll as package
from atoll.platform.cli.application import application
from tests.support.paths import ROOT

pytestmark = pytest.mark.ray

EXPERIMENT = """
[run]
name = "small"
seed = 3
rounds = 8
checkpoint_every = 2

[data]
dataset = "digits"
clients = 20

[data.partition]
name = "dirichlet"
alpha = 1.0

[model]
name = "mlp"
hidden = [16]

[client]
learning_rate = 0.1
batch_size = 16

[strategy]
name = "FedAdam"
fraction_train = 0.5
fraction_evaluate = 0.25
"""


@dataclass
class Ended:
    returncode: int
    stdout: str
    stderr: str


def atoll(*arguments: object) -> Ended:
    """The command line in a process of its own."""
    command = [sys.executable, "-m", "atoll", *map(str, arguments)]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=120, cwd=ROOT, check=False
    )
    return Ended(done.returncode, done.stdout, done.stderr)


@pytest.fixture
def atoll_here(cluster: None) -> Iterator[Callable[..., Ended]]:
    """The command line in this process, on the Ray that is there: no start to wait for."""
    names = ("atoll", "flwr")
    before = {name: (dict(vars(logging.getLogger(name)))) for name in names}

    def run(*arguments: object) -> Ended:
        done = CliRunner().invoke(application, list(map(str, arguments)))
        if done.exception is not None and not isinstance(done.exception, SystemExit):
            raise done.exception
        return Ended(done.exit_code, done.stdout, done.stderr)

    yield run
    for name in names:
        vars(logging.getLogger(name)).update(before[name])
        logging.getLogger(name).setLevel(before[name]["level"])


@pytest.fixture
def experiment(tmp_path: Path) -> Path:
    path = tmp_path / "small.toml"
    path.write_text(EXPERIMENT)
    return path


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A run that nothing disturbed."""
    folder = tmp_path_factory.mktemp("finished")
    (folder / "small.toml").write_text(EXPERIMENT)
    done = atoll("run", folder / "small.toml", "--out", folder / "run", "--workers", 1)
    assert done.returncode == 0, done.stderr
    return folder / "run", done.stdout


def sha256(directory: Path) -> str:
    return str(json.loads((directory / "result.json").read_text())["parameters_sha256"])


def test_a_run_directory_holds_what_was_promised(finished: tuple[Path, str]) -> None:
    directory, output = finished
    result = json.loads((directory / "result.json").read_text())
    assert result["rounds"] == 8
    assert result["wall_seconds"] > 0
    assert 0.5 < result["metrics"]["server_accuracy"] <= 1
    rounds = pq.read_table(directory / "rounds.parquet")
    assert rounds.column("round").to_pylist() == list(range(1, 9))
    clients = pq.read_table(directory / "clients.parquet")
    assert set(clients.column_names) >= {
        *("node_id", "partition", "domain", "examples", "loss"),
        *("seconds", "worker", "status", "reason"),
    }
    trained = [p for p in clients.column("phase").to_pylist() if p == "train"]
    assert len(trained) == 8 * 10
    assert len(clients) == 8 * (10 + 5)
    config = (directory / "config.toml").read_text()
    for line in ("seed = 3", 'optimizer = "sgd"', "[versions]", 'flwr = "', 'ray = "'):
        assert line in config
    assert "round 8/8" in output
    assert "report.html" in output
    page = (directory / "report.html").read_text()
    assert "<svg" in page or "svg" in page
    assert "http" not in re.sub(r"<script>.*?</script>", "", page, count=1, flags=re.DOTALL)


def start(experiment: Path, directory: Path, *more: str) -> subprocess.Popen[bytes]:
    command = [
        sys.executable,
        "-m",
        "atoll",
        "run",
        str(experiment),
        "--out",
        str(directory),
        *more,
    ]
    return subprocess.Popen(
        command,
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )


def wait_for(path: Path, seconds: float = 200) -> None:
    deadline = time.monotonic() + seconds
    while not path.exists():
        assert time.monotonic() < deadline, f"{path} did not appear"
        time.sleep(0.02)


AtollHere = Callable[..., Ended]


def test_a_killed_driver_resumes_to_the_same_bits(
    experiment: Path, tmp_path: Path, finished: tuple[Path, str], atoll_here: AtollHere
) -> None:
    directory = tmp_path / "run"
    process = start(experiment, directory, "--workers", "2")
    wait_for(directory / "checkpoints" / "round-000002")
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert not (directory / "result.json").exists()
    resumed = atoll_here("resume", directory, "--workers", 1)
    assert resumed.returncode == 0, resumed.stderr
    assert sha256(directory) == sha256(finished[0])
    rounds = pq.read_table(directory / "rounds.parquet").column("round").to_pylist()
    assert rounds == list(range(1, 9))
    written = (directory / "result.json").stat().st_mtime_ns
    again = atoll_here("resume", directory)
    assert again.returncode == 0, again.stderr
    assert (directory / "result.json").stat().st_mtime_ns == written


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.long
def test_an_interrupted_run_says_how_to_continue(
    experiment: Path, tmp_path: Path, atoll_here: AtollHere, number: signal.Signals
) -> None:
    directory = tmp_path / "run"
    many = ("--set", "run.rounds=100000", "--set", "run.checkpoint_every=100000")
    process = start(experiment, directory, *many, "--workers", "1")
    wait_for(directory / "rounds.parquet")
    while pq.read_metadata(directory / "rounds.parquet").num_rows == 0:
        time.sleep(0.05)
    if number == signal.SIGTERM:
        # As Slurm ends a step, and "timeout" a command: Ray's own processes are sent it, too.
        os.killpg(process.pid, number)
    else:
        process.send_signal(number)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130, errors
    assert f"atoll resume {directory}".encode() in errors
    assert b"Traceback" not in errors
    [checkpoint] = (directory / "checkpoints").iterdir()
    ended = int(checkpoint.name.removeprefix("round-"))
    assert ended > 0
    fewer = ("--set", f"run.rounds={ended + 2}")
    resumed = atoll_here("run", experiment, "--out", directory, "--resume", *fewer, "--workers", 1)
    assert resumed.returncode == 0, resumed.stderr
    undisturbed = tmp_path / "undisturbed"
    done = atoll_here(
        *("run", experiment, "--out", undisturbed, *fewer),
        *("--workers", 1),
    )
    assert done.returncode == 0, done.stderr
    assert sha256(directory) == sha256(undisturbed)


LAYERS = """
[run]
name = "layers"
rounds = 100000
[data]
dataset = "digits"
clients = 1
train_examples = 200
[model]
name = "noprop-dt"
block = "small"
steps = 2
[layers]
[ray]
workers = 1
"""


@pytest.mark.long
@pytest.mark.parametrize("what", ["layers", "flower"])
def test_sigterm_ends_every_kind_of_run_as_ctrl_c_does(tmp_path: Path, what: str) -> None:
    directory = tmp_path / "run"
    (tmp_path / "layers.toml").write_text(LAYERS)
    command = ["run", str(tmp_path / "layers.toml")]
    if what == "flower":
        command = ["flower", str(ROOT / "tests/support/apps/flower_app"), "--workers", "1"]
        command += ["--num-supernodes", "10"]
        command += ["--run-config", "num-server-rounds=100000"]
    process = subprocess.Popen(
        [sys.executable, "-m", "atoll", *command, "--out", str(directory)],
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )
    wait_for(directory / "engine.json")
    process.terminate()
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130, errors
    assert f"atoll resume {directory}".encode() in errors
    assert b"SIGTERM received" not in errors


@pytest.mark.long
def test_a_second_process_is_kept_out(
    experiment: Path, tmp_path: Path, atoll_here: AtollHere
) -> None:
    directory = tmp_path / "run"
    process = start(experiment, directory, "--set", "run.rounds=100000", "--workers", "1")
    try:
        wait_for(directory / "engine.json")
        second = atoll_here("resume", directory)
        assert second.returncode == 1
        holder = f"{process.pid} on {socket.gethostname()}"
        assert f"another process ({holder}) is running in it" in second.stderr
        report = atoll_here("report", directory)
        assert report.returncode == 0, report.stderr
        assert "Not finished" in (directory / "report.html").read_text()
    finally:
        process.kill()
        process.communicate()


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("client.learning_rat=1", "client.learning_rat = 1: no such key; did you mean"),
        ("strategy.name=FedAvgg", "strategy.name = 'FedAvgg': no such strategy"),
        ("strategy.name=FedXgbBagging", "joins boosted trees, and an experiment's models are"),
        ("strategy.fraction=0.5", "strategy.fraction = 0.5: FedAdam has no such"),
        ("model.name=lenett", "model.name = 'lenett': no such model; did you mean"),
        ("data.dataset=minst", "data.dataset = 'minst': no such data set"),
        ("data.partition.name=shards", "'shards': no such partitioner; did you mean 'shard'"),
        ("data.clients=5000", "data.clients = 5000: there are only 1437"),
        ("data.path=/nowhere", "data.path = '/nowhere': no such file or folder"),
        ("ray.gpus_per_worker=1", "ray.gpus_per_worker = 1: there is no GPU"),
        ("client.mods=['clip_mod']", "client.mods = 'clip_mod': no such mod"),
        ("client.mods=['fixedclipping_mod'] client.vectorize=true", "see one client at a time"),
        ("nonsense", "--set 'nonsense': expected section.key=value"),
    ],
)
def test_what_cannot_be_run_is_one_clear_line(
    experiment: Path, tmp_path: Path, atoll_here: AtollHere, setting: str, message: str
) -> None:
    sets = [part for one in setting.split() for part in ("--set", one)]
    done = atoll_here("run", experiment, "--out", tmp_path / "run", *sets)
    assert done.returncode == 2, done.stderr
    lines = [line for line in done.stderr.splitlines() if line.strip()]
    assert len(lines) == 1, done.stderr
    assert message in lines[0]
    assert not (tmp_path / "run").exists()


def test_files_and_folders_that_are_not_what_they_should_be(
    tmp_path: Path, atoll_here: AtollHere, experiment: Path
) -> None:
    (tmp_path / "sweep").mkdir()
    (tmp_path / "sweep" / "sweep.toml").touch()
    (tmp_path / "broken.toml").write_text("[run\nname = 3")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "x").touch()
    cases = [
        (("run", tmp_path / "none.toml"), 2, "no such file"),
        (("run", tmp_path / "broken.toml"), 2, "is not readable TOML"),
        (("run", tmp_path), 2, "is a folder"),
        (("run", ROOT / "experiments/quickstart.toml", "--out", tmp_path / "full"), 1, "not empty"),
        (("run", experiment, "--out", tmp_path / "broken.toml"), 1, "is a file; expected a new"),
        (("run", experiment, "--out", tmp_path / ("x" * 300)), 1, ": File name too long"),
        (("run", experiment, "--set", f"run.name={'x' * 300}"), 2, "at most 200 characters"),
        (("resume", tmp_path), 1, "is not a run directory"),
        (("resume", tmp_path / "sweep"), 1, "'atoll sweep' continues what is in it"),
        (("report", tmp_path / "nothing"), 1, "is not a run directory"),
        (("list", "modles"), 2, "did you mean 'models'"),
        (("flower", tmp_path), 2, "expected a Flower app"),
    ]
    for arguments, code, message in cases:
        done = atoll_here(*arguments)
        assert done.returncode == code, done.stderr
        assert message in done.stderr


def test_an_error_is_a_line_and_a_code_in_a_process_of_its_own(experiment: Path) -> None:
    done = atoll("run", experiment, "--set", "strategy.name=FedAvgg")
    assert done.returncode == 2
    assert done.stderr.splitlines() == [
        "error: strategy.name = 'FedAvgg': no such strategy; did you mean 'FedAvg'?"
    ]
    assert done.stdout == f"{experiment.name}: loading PyTorch, Flower and Ray\n"


def test_lists_and_help(atoll_here: AtollHere) -> None:
    assert "dirichlet" in atoll_here("list", "partitioners").stdout
    assert "FedTrimmedAvg" in atoll_here("list", "strategies").stdout
    assert "resnet18" in atoll_here("list", "models").stdout
    text = atoll("--help").stdout
    for command in ("run", "sweep", "resume", "report", "list", "data", "flower"):
        assert command in text
    assert atoll_here("--version").stdout.startswith("atoll ")
    assert "1,437 + 360 images" in atoll_here("data", "get", "digits").stdout


def test_a_ray_that_is_there_is_used_and_left_running(
    experiment: Path, tmp_path: Path, cluster: None
) -> None:
    seen: list[int] = []
    settings = package.load_experiment(experiment, ["run.rounds=2", "ray.workers=1"])
    result = package.run(
        settings,
        out=tmp_path / "run",
        callbacks=[lambda record: seen.append(record.server_round)],
    )
    assert ray.is_initialized()
    assert seen == [1, 2]
    assert result.summary["parameters_sha256"]
    assert result.metrics["server_accuracy"] > 0
