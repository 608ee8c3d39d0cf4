"""Watching runs and sweeps from their directories alone: while they run, and after."""

from __future__ import annotations

import io
import os
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from atoll.errors import RunDirectoryError
from atoll.platform.callbacks.observers import RoundRecord, RunInfo
from atoll.platform.cli.watching.run_standing import read_rounds
from atoll.platform.cli.watching.watch import watch
from atoll.platform.run_directory.ledger import Ledger
from atoll.platform.run_directory.run_files import CONFIG, ROUNDS
from atoll.platform.sweeps.sweep_plan import load_sweep
from atoll.platform.sweeps.trial_rows import place_of
from atoll.platform.sweeps.trials import TrialTable

RESULT: dict[str, Any] = {
    "status": "finished",
    "rounds": 3,
    "metrics": {"server_accuracy": 0.9},
    "wall_seconds": 4.0,
    "errors": 1,
    "parameters_sha256": "ab" * 32,
}


def a_round(server_round: int) -> RoundRecord:
    return RoundRecord(
        server_round=server_round,
        num_rounds=3,
        seconds=0.5,
        cohort=5,
        replies=4,
        errors=1,
        examples=100,
        train_metrics={"train_loss": 1.5},
        server_metrics={"accuracy": 0.25 * server_round, "per_class": [0.5, 1.0]},
        bytes_down=10,
        bytes_up=20,
    )


def begin(directory: Path) -> Ledger:
    ledger = Ledger.create(directory, '[run]\nname = "far-away"\n')
    ledger.on_start(RunInfo("far-away", directory, 3, 1, 2, 10, 1000, "FedAvg", ["a note"]))
    return ledger


def console() -> tuple[Console, io.StringIO]:
    text = io.StringIO()
    return Console(file=text, width=200, highlight=False), text


def test_the_ledger_gives_back_the_rounds_that_it_was_given(tmp_path: Path) -> None:
    ledger = begin(tmp_path)
    for server_round in (1, 2):
        ledger.on_round(a_round(server_round))
    ledger.flush()
    assert read_rounds(tmp_path) == [a_round(1), a_round(2)]


def test_a_run_is_followed_from_before_its_start_to_its_end(tmp_path: Path) -> None:
    directory = tmp_path / "run"
    shown, text = console()
    ledgers: list[Ledger] = []

    def live(seconds: float) -> None:
        """What happens while the watcher waits."""
        assert seconds == 0.5
        if not ledgers:
            ledgers.append(begin(directory))
            return
        [ledger] = ledgers
        done = len(read_rounds(directory))
        if done < 3:
            ledger.on_round(a_round(done + 1))
            ledger.flush()
        else:
            ledger.write_result(RESULT)

    watch(directory, shown, every=0.5, sleep=live)
    lines = text.getvalue().splitlines()
    assert lines[0] == f"waiting for {directory}"
    assert lines[1].startswith("far-away: FedAvg, 10 clients, 1,000 parameters, 3 rounds, 2 worker")
    assert "  a note" in lines[2]
    assert any(line.startswith("round 3/3  server accuracy 0.7500") for line in lines)
    assert any("parameters sha256" in line for line in lines)


def test_a_silent_run_is_said_to_be_silent_once(tmp_path: Path) -> None:
    ledger = begin(tmp_path)
    ledger.on_round(a_round(1))
    ledger.flush()
    os.utime(tmp_path / ROUNDS, (0, 0))
    shown, text = console()
    looks: list[float] = []

    def wait(seconds: float) -> None:
        looks.append(seconds)
        if len(looks) == 3:
            ledger.write_result(RESULT)

    watch(tmp_path, shown, sleep=wait)
    assert text.getvalue().count("no news for") == 1
    assert f"atoll resume {tmp_path}" in text.getvalue()


def test_once_shows_how_it_stands_and_refuses_what_is_no_run(tmp_path: Path) -> None:
    ledger = begin(tmp_path / "run")
    ledger.on_round(a_round(1))
    ledger.flush()
    shown, text = console()
    watch(tmp_path / "run", shown, once=True)
    assert "round 1/3" in text.getvalue()
    for place in (tmp_path, tmp_path / "none"):
        with pytest.raises(RunDirectoryError, match="is neither a run directory"):
            watch(place, shown, once=True)
    (tmp_path / "run" / "engine.json").write_text("[]")
    with pytest.raises(RunDirectoryError, match=r"engine\.json: is not what was written"):
        watch(tmp_path / "run", shown, once=True)


def test_a_sweep_is_followed_by_its_trials(tmp_path: Path) -> None:
    (tmp_path / "sweep.toml").write_text(
        '[run]\nrounds = 3\n[data]\ndataset = "digits"\n[sweep.grid]\nrun.seed = [0, 1, 2]\n'
    )
    sweep = load_sweep(tmp_path / "sweep.toml")
    directory = tmp_path / "out"
    table = TrialTable(directory, sweep)
    table.write()
    first, second, third = sweep.trials

    def work(trial: Any, ends: bool) -> None:
        ledger = begin(place_of(directory, trial))
        ledger.on_round(a_round(1))
        ledger.flush()
        if ends:
            ledger.write_result(RESULT)

    work(first, True)
    table.end(first, None)
    work(second, False)
    shown, text = console()
    watch(directory, shown, once=True)
    lines = text.getvalue().splitlines()
    assert lines[0] == "FedAvg, seed 0: finished, accuracy 0.2500"
    assert lines[1] == "FedAvg, seed 1: round 1/3, accuracy 0.2500"
    assert lines[2] == f"1 of 3 trials ended -> {directory}"

    def wait(seconds: float) -> None:
        place_of(directory, second).joinpath(CONFIG).touch()
        table.end(second, "its process ended")
        work(third, True)
        table.end(third, None)

    shown, text = console()
    watch(directory, shown, sleep=wait)
    assert "FedAvg, seed 1: failed, its process ended" in text.getvalue()
    assert text.getvalue().splitlines()[-1] == f"3 of 3 trials ended -> {directory}"
