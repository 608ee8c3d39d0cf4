"""Sweeps as they run: real trials on a real Ray, interrupted, resumed, failing."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from click.testing import Result
from typer.testing import CliRunner

from atoll.errors import RunDirectoryError
from atoll.files.recorded import write_recorded_json
from atoll.platform.cli.application import application
from atoll.platform.config.experiment import Experiment
from atoll.platform.runs.federation_run import run
from atoll.platform.sweeps.sweep import SweepResult, TrialEnd, run_sweep, sweep_directory
from atoll.platform.sweeps.sweep_plan import Sweep, load_sweep
from tests.support.paths import ROOT

SWEEP = """
[run]
name = "small"
rounds = 4
checkpoint_every = 1
[data]
dataset = "colored-digits"
clients = 2
held_out = ["e0.9"]
partition = { name = "domain" }
[model]
name = "mlp-irm"
hidden = 8
[client]
learning_rate = 0.1
steps = 3
[ray]
workers = 1
[sweep.grid]
run.seed = [0, 1]
[sweep.variants.erm]
[sweep.variants.prox.client]
proximal_mu = 0.5
"""
ONE_SEED = SWEEP.replace("[0, 1]", "[0]")


def planned(tmp_path: Path, *overrides: str, text: str = SWEEP) -> Sweep:
    path = tmp_path / "sweep.toml"
    path.write_text(text)
    return load_sweep(path, overrides)


def rows(result: SweepResult, table: str = "trials") -> list[dict]:
    return pq.read_table(result.directory / f"{table}.parquet").to_pylist()


def test_trials_are_runs_and_a_finished_one_is_not_run_again(tmp_path: Path, cluster: None) -> None:
    sweep, directory = planned(tmp_path, text=ONE_SEED), tmp_path / "out"
    ends: list[TrialEnd] = []
    result = run_sweep(sweep, directory, on_end=ends.append)
    assert [end.done for end in ends] == [1, 2]
    assert {end.of for end in ends} == {2}
    assert result.failed == {}
    for trial, row in zip(sweep.trials, rows(result), strict=True):
        assert (row["method"], row["seed"], row["status"]) == (trial.method, trial.seed, "finished")
        assert (Path(row["directory"]) / "report.html").exists()
    # A trial comes to the bits of the run that it stands for.
    alone = run(sweep.trials[1].experiment, out=tmp_path / "alone")
    assert rows(result)[1]["parameters_sha256"] == alone.summary["parameters_sha256"]
    # The table's figure is the one in the run's ledger.
    ledger = pq.read_table(tmp_path / "alone" / "rounds.parquet")
    [first] = [
        row
        for row in rows(result, "curves")
        if (row["method"], row["seed"], row["domain"], row["round"]) == ("prox", 0, "grey", 4)
    ]
    assert first["value"] == ledger.column("server_accuracy_grey")[-1].as_py()
    figures = rows(result, "results")
    assert {f["rule"] for f in figures} == {
        *("training-domain validation", "oracle (last)", "oracle (best)"),
    }
    assert {f["domain"]: f["role"] for f in figures} == {
        "e0.2": "training",
        "e0.1": "training",
        "e0.9": "held out",
        "grey": "probe",
    }
    text = (directory / "results.md").read_text()
    assert "| method | e0.9 (held out) | grey (probe) | e0.2 (training) |" in text

    written = {path: path.stat().st_mtime_ns for path in directory.glob("trials/*/result.json")}
    assert len(written) == 2
    ends.clear()
    result = run_sweep(planned(tmp_path), directory, on_end=ends.append)
    assert sorted(end.trial.seed for end in ends) == [1, 1]
    assert all(path.stat().st_mtime_ns == before for path, before in written.items())
    assert "(2 seeds)" in result.tables


@pytest.mark.long
def test_a_damaged_trial_is_run_again_and_one_of_other_data_refused(
    tmp_path: Path, cluster: None
) -> None:
    sweep, directory = planned(tmp_path, text=ONE_SEED), tmp_path / "out"
    result = run_sweep(sweep, directory)
    # One trial's result is cut off, and another's ledger: the first is made again, and the second
    # is said to be missing in the table.
    first, second = (Path(row["directory"]) for row in rows(result)[:2])
    whole, ledger = (first / "result.json").read_text(), second / "rounds.parquet"
    (first / "result.json").write_text(whole[:40])
    ledger.write_bytes(b"")
    ends: list[TrialEnd] = []
    damaged = run_sweep(sweep, directory, on_end=ends.append)
    assert [(end.trial.name, end.error) for end in ends] == [(first.name, None)]
    assert (
        json.loads((first / "result.json").read_text())["metrics"] == json.loads(whole)["metrics"]
    )
    [reason] = damaged.failed.values()
    assert reason.startswith(f"{ledger}: is not what was written")

    # A trial that was run on other data does not stand beside those that are to come.
    tables = json.loads((first / "identity.json").read_text())
    tables["data"]["colored-digits"] = "00"
    write_recorded_json(first / "identity.json", tables)
    with pytest.raises(RunDirectoryError, match=r"other data \(colored-digits\): SHA-256 00 there"):
        run_sweep(sweep, directory)


@pytest.mark.long
def test_a_trial_that_fails_does_not_stop_the_others_and_is_tried_again(
    tmp_path: Path, cluster: None
) -> None:
    text = SWEEP.replace(
        "proximal_mu = 0.5",
        "proximal_mu = 0.0\n[sweep.variants.prox.strategy]\n"
        'name = "tests.support.user_code.failing_strategy:Failing"',
    )
    sweep, directory = planned(tmp_path, text=text), tmp_path / "out"
    result = run_sweep(sweep, directory)
    assert [row["status"] for row in rows(result)] == ["finished", "finished", "failed", "failed"]
    assert len(result.failed) == 2
    messages = list(result.failed.values())
    assert all(text.startswith("ValueError: nothing comes of it") for text in messages)
    assert rows(result)[2]["error"] == messages[0]
    [log] = [p for p in directory.glob("trials/prox*.log") if sweep.trials[2].key in p.name]
    assert "nothing comes of it" in log.read_text()
    ends: list[TrialEnd] = []
    run_sweep(sweep, directory, on_end=ends.append)
    assert sorted(str(end.error) for end in ends) == sorted(messages)


@pytest.mark.long
def test_a_budget_ends_a_sweep_with_its_tables_and_the_next_call_continues(
    tmp_path: Path, cluster: None
) -> None:
    sweep, directory = planned(tmp_path, "run.rounds=2"), tmp_path / "out"
    ended: list[TrialEnd] = []

    def wait_for_the_end(end: TrialEnd) -> None:
        ended.append(end)
        time.sleep(60)

    part = run_sweep(sweep, directory, budget=15.0, on_end=wait_for_the_end)
    assert len(ended) <= 1
    assert part.failed == {}
    assert part.left == 4 - len(ended)
    assert {row["status"] for row in rows(part)} <= {"finished", "waiting"}
    whole = run_sweep(sweep, directory)
    assert whole.left == 0
    assert {row["status"] for row in rows(whole)} == {"finished"}


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT)}


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
@pytest.mark.long
def test_an_interrupted_sweep_continues_to_the_same_bits(
    tmp_path: Path, cluster: None, number: signal.Signals
) -> None:
    settings = ("run.rounds=12", "sweep.parallel=1")
    sweep = planned(tmp_path, *settings, text=ONE_SEED)
    directory = tmp_path / "out"
    command = [sys.executable, "-m", "atoll", "sweep", str(tmp_path / "sweep.toml")]
    options = [word for setting in settings for word in ("--set", setting)]
    process = subprocess.Popen(
        [*command, "--out", str(directory), *options],
        cwd=ROOT,
        env=environment(),
        stderr=subprocess.PIPE,
    )
    deadline = time.monotonic() + 120
    while not list(directory.glob("trials/*/checkpoints/round-*")):
        assert time.monotonic() < deadline
        assert process.poll() is None
        time.sleep(0.02)
    process.send_signal(number)
    _, errors = process.communicate(timeout=60)
    if number != signal.SIGKILL:
        assert process.returncode == 130
        assert b"interrupted; to continue: the same command" in errors
    result = run_sweep(sweep, directory)
    assert result.failed == {}
    first = rows(result)[0]
    config = sweep.trials[0].experiment.to_dict()
    undisturbed = run(Experiment.from_dict(config), out=tmp_path / "undisturbed")
    assert first["parameters_sha256"] == undisturbed.summary["parameters_sha256"]
    rounds = pq.read_table(Path(first["directory"]) / "rounds.parquet").column("round")
    assert rounds.to_pylist() == list(range(1, 13))


def test_a_directory_with_something_else_in_it_is_refused(tmp_path: Path) -> None:
    sweep = planned(tmp_path)
    assert sweep_directory(sweep, None) == Path("runs/small")
    assert sweep_directory(sweep, tmp_path / "new") == tmp_path / "new"
    with pytest.raises(RunDirectoryError, match="is there already and no sweep"):
        sweep_directory(sweep, tmp_path)
    (tmp_path / "killed").mkdir()
    (tmp_path / "killed" / ".lock").touch()
    assert sweep_directory(sweep, tmp_path / "killed") == tmp_path / "killed"
    (tmp_path / "trials").mkdir()
    assert sweep_directory(sweep, tmp_path) == tmp_path


@pytest.mark.long
def test_the_command_shows_trials_and_tables_and_its_code_says_whether_all_went_well(
    tmp_path: Path, cluster: None
) -> None:
    path = tmp_path / "sweep.toml"
    path.write_text(SWEEP.replace("[0, 1]", "[0]"))

    def sweep(*options: str) -> Result:
        return CliRunner().invoke(application, ["sweep", str(path), *options])

    listed = sweep("--dry-run", "--set", "run.rounds=1")
    assert listed.exit_code == 0
    assert "erm, held out e0.9, seed 0" in listed.stdout
    options = ("--out", str(tmp_path / "out"), "--set", "run.rounds=1")
    done = sweep(*options)
    assert done.exit_code == 0, done.output
    for words in ("2 trials, 2 at a time", "[2/2]", "oracle (last)", "e0.9 (held out)"):
        assert words in done.stdout
    few = sweep(*options, "--set", "data.train_examples=1")
    assert (few.exit_code, few.stdout.count("\n")) == (2, 1)
    assert few.stderr.count("there are only 1 training examples") == 1
    wrong = sweep("--set", "sweep.grid.run.seed=3")
    assert (wrong.exit_code, wrong.stdout.count("\n")) == (2, 1)
    assert "sweep.grid.run.seed = 3: expected a list of values" in wrong.stderr
