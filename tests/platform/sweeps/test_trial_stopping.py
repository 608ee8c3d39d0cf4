"""Trials that are stopped early: who beats them, and that they continue to the same end."""

from __future__ import annotations

import math
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from atoll.platform.config.sweep_sections import TrialStoppingSettings
from atoll.platform.run_directory.run_files import RESULT
from atoll.platform.runs.federation_run import run
from atoll.platform.sweeps.sweep import TrialEnd, run_sweep
from atoll.platform.sweeps.sweep_plan import load_sweep
from atoll.platform.sweeps.trial_rows import STOPPED
from atoll.platform.sweeps.trial_stopping import Halving

SWEEP = """
[run]
name = "search"
rounds = 6
[data]
dataset = "digits"
clients = 4
[model]
name = "linear"
[client]
steps = 4
[ray]
workers = 1
[sweep]
parallel = 1
[sweep.grid]
client.learning_rate = [0.5, 1e-6]
[sweep.early_stopping]
grace_rounds = 2
reduction_factor = 2.0
"""


def halving(mode: str = "max", grace: int = 1, rounds: int = 9, factor: float = 3.0) -> Halving:
    settings_ = {"mode": mode, "grace_rounds": grace, "reduction_factor": factor}
    return Halving(TrialStoppingSettings.model_validate(settings_), rounds)


@pytest.mark.parametrize("mode", ["max", "min"])
def test_a_trial_that_is_not_among_the_best_at_a_rung_stops(mode: str) -> None:
    sign = 1.0 if mode == "max" else -1.0
    judge = halving(mode)
    for number, value in enumerate([0.1, 0.2, 0.3, 0.4, 0.5]):
        assert not judge.report("g", f"t{number}", 1, sign * value)
    assert judge.report("g", "bad", 1, sign * 0.15)
    assert not judge.report("g", "good", 1, sign * 0.6)
    # Between rungs nobody stops; a rung's value counts once.
    assert not judge.report("g", "good", 2, sign * 0.0)
    assert not judge.report("g", "good", 1, sign * 0.0)
    # Others compete among themselves.
    assert not judge.report("other", "bad", 1, sign * 0.0)


def test_a_verdict_stays_for_a_trial_that_was_killed_before_it_could_stop() -> None:
    judge = halving()
    for number, value in enumerate([0.3, 0.4, 0.5]):
        judge.report("g", f"t{number}", 1, value)
    assert judge.report("g", "bad", 1, 0.1)
    assert judge.report("g", "bad", 1, 0.1)


def test_a_trial_whose_metric_is_not_finite_stops_after_its_grace() -> None:
    judge = halving(grace=3)
    assert [judge.report("g", "t", r, math.nan) for r in (1, 2, 3)] == [False, False, True]


@given(
    st.lists(st.lists(st.floats(0, 1), min_size=9, max_size=9), min_size=2, max_size=8),
    st.integers(1, 4),
    st.floats(1.1, 5.0),
)
@settings(max_examples=60)
def test_the_trial_that_is_ahead_everywhere_is_never_stopped(
    curves: list[list[float]], grace: int, factor: float
) -> None:
    judge = halving(grace=grace, factor=factor)
    best = [max(values) + 1 for values in zip(*curves, strict=True)]
    for number, curve in enumerate([*curves, best]):
        for server_round, value in enumerate(curve, 1):
            stopped = judge.report("g", f"t{number}", server_round, value)
            assert not (stopped and number == len(curves))
            assert not (stopped and server_round < grace)
            if stopped:
                break


@pytest.mark.long
def test_stopped_trials_stay_in_the_table_and_continue_when_they_may(
    tmp_path: Path, cluster: None
) -> None:
    path, directory = tmp_path / "sweep.toml", tmp_path / "out"
    path.write_text(SWEEP)
    sweep = load_sweep(path)
    ends: list[TrialEnd] = []
    result = run_sweep(sweep, directory, on_end=ends.append)
    assert result.failed == {}
    rows = pq.read_table(directory / "trials.parquet").to_pylist()
    assert [(r["status"], r["rounds"]) for r in rows] == [("finished", 6), ("stopped", 2)]
    assert [end.is_stopped for end in ends] == [False, True]
    # What is reported is of a trial that ran to its end.
    for figure in pq.read_table(directory / "results.parquet").to_pylist():
        assert figure["hyperparameters"] == rows[0]["hyperparameters"]
    assert "oracle (last), FedAvg: client.learning_rate = 0.5" in result.tables

    stopped = Path(rows[1]["directory"])
    assert (stopped / STOPPED).exists()
    assert (stopped / "report.html").exists()
    assert not (stopped / RESULT).exists()
    ends.clear()
    run_sweep(sweep, directory, on_end=ends.append)
    assert ends == []

    # Killed after it was told to stop, and before it could write that down: it is told again.
    (stopped / STOPPED).unlink()
    run_sweep(sweep, directory, on_end=ends.append)
    assert [end.is_stopped for end in ends] == [True]
    assert pq.read_table(directory / "trials.parquet").to_pylist()[1]["rounds"] == 2
    assert pq.read_table(stopped / "rounds.parquet")["round"].to_pylist() == [1, 2]
    ends.clear()

    path.write_text(SWEEP.split("[sweep.early_stopping]")[0])
    whole = load_sweep(path)
    run_sweep(whole, directory, on_end=ends.append)
    assert [end.is_stopped for end in ends] == [False]
    rows = pq.read_table(directory / "trials.parquet").to_pylist()
    assert {(r["status"], r["rounds"]) for r in rows} == {("finished", 6)}
    assert not (stopped / STOPPED).exists()
    [trial] = [t for t in whole.trials if t.name == stopped.name]
    alone = run(trial.experiment, out=tmp_path / "alone")
    [row] = [r for r in rows if r["directory"] == str(stopped)]
    assert row["parameters_sha256"] == alone.summary["parameters_sha256"]
