"""A run that is killed anywhere ends as if it had not been: the same result, ledger and report."""

from __future__ import annotations

import json
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from atoll.errors import CorruptCheckpointError, RunDirectoryError
from atoll.platform.callbacks.observers import Observer
from atoll.platform.config.experiment import Experiment
from atoll.platform.run_directory.checkpoint import CheckpointStore
from atoll.platform.run_directory.interrupts import interrupts_held, terminated_as_interrupt
from atoll.platform.run_directory.ledger import Ledger
from atoll.platform.runs.federation_run import resume, run

TABLES: dict[str, Any] = {
    "run": {"rounds": 5, "seed": 3, "checkpoint_every": 2},
    "data": {"dataset": "digits", "clients": 4},
    "model": {"name": "linear"},
    "client": {"vectorize": False},
    "strategy": {"name": "FedAdam"},
    "ray": {"workers": 1},
}
TIMES = ("wall_seconds",)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, cluster: None) -> Path:
    """A run that nothing disturbed."""
    return run(Experiment.from_dict(TABLES), out=tmp_path_factory.mktemp("whole") / "run").directory


@pytest.fixture
def copied(whole: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(whole, tmp_path / "run"))


def result(directory: Path) -> dict[str, Any]:
    found = json.loads((directory / "result.json").read_text())
    return {key: value for key, value in found.items() if key not in TIMES}


def rounds(directory: Path) -> list[dict[str, Any]]:
    rows = pq.read_table(directory / "rounds.parquet").to_pylist()
    return [{key: value for key, value in row.items() if key != "seconds"} for row in rows]


@pytest.mark.parametrize("left", ["nothing", "half a result"])
def test_killed_between_the_last_checkpoint_and_the_result(
    whole: Path, copied: Path, left: str
) -> None:
    (copied / "report.html").unlink()
    (copied / "result.json").unlink()
    if left == "half a result":
        (copied / "result.json").write_text((whole / "result.json").read_text()[:50])
    resume(copied)
    assert result(copied) == result(whole)
    assert result(copied)["rounds"] == 5
    assert result(copied)["metrics"]["server_accuracy"] > 0
    assert rounds(copied) == rounds(whole)
    assert "Not finished" not in (copied / "report.html").read_text()


def test_a_finished_run_without_its_report_gets_it_again(copied: Path) -> None:
    (copied / "report.html").unlink()
    resume(copied)
    assert "Not finished" not in (copied / "report.html").read_text()


def test_interrupted_as_the_ledger_takes_note_of_a_round(
    whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sound = Ledger.on_round

    def interrupted(ledger: Ledger, record: Any) -> None:
        if record.server_round == 3:
            raise KeyboardInterrupt
        sound(ledger, record)

    monkeypatch.setattr(Ledger, "on_round", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run(Experiment.from_dict(TABLES), out=tmp_path / "run")
    monkeypatch.undo()
    resume(tmp_path / "run", workers=2)
    assert result(tmp_path / "run") == result(whole)
    assert rounds(tmp_path / "run") == rounds(whole)


@pytest.mark.ray
@pytest.mark.slow
def test_an_interruption_waits_for_the_ledger_and_the_round_is_kept(tmp_path: Path) -> None:
    class Interrupting(Observer):
        def on_start(self, info: Any) -> None: ...
        def on_end(self, result: Any) -> None: ...
        def on_round(self, record: Any) -> None:
            if record.server_round == 3:
                signal.raise_signal(signal.SIGTERM)

    with pytest.raises(KeyboardInterrupt):
        run(
            Experiment.from_dict(TABLES), out=tmp_path / "run", observers=lambda _: [Interrupting()]
        )
    assert CheckpointStore(tmp_path / "run" / "checkpoints").rounds() == [2, 3]
    assert [row["round"] for row in rounds(tmp_path / "run")] == [1, 2, 3]


@pytest.fixture
def interruptible() -> Iterator[None]:
    """SIGINT as in a terminal; a shell that starts tests in the background has it ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("interruptible")
def test_who_interrupts_twice_does_not_wait() -> None:
    done = []
    with terminated_as_interrupt(), pytest.raises(KeyboardInterrupt), interrupts_held():
        signal.raise_signal(signal.SIGINT)
        done.append("first")
        signal.raise_signal(signal.SIGINT)
        done.append("second")
    assert done == ["first"]
    with terminated_as_interrupt(), interrupts_held():
        done.append("and nothing is left of it")
    assert len(done) == 2


def test_what_a_killed_process_was_writing_is_cleared_away(copied: Path) -> None:
    (copied / "result.json").unlink()
    (copied / ".rounds.parquet.123").write_bytes(b"half")
    (copied / "checkpoints" / ".partial-5-123").mkdir()
    resume(copied)
    assert [path.name for path in copied.iterdir() if path.name.startswith(".")] == [".lock"]
    assert not list((copied / "checkpoints").glob(".*"))


@pytest.mark.parametrize("name", ["rounds.parquet", "clients.parquet"])
def test_a_lost_ledger_is_not_made_up_for(copied: Path, name: str) -> None:
    (copied / "result.json").unlink()
    (copied / name).unlink()
    with pytest.raises(RunDirectoryError, match="the checkpoint is of round 5; expected the led"):
        resume(copied)


def test_a_checkpoint_of_another_version_is_no_traceback(copied: Path) -> None:
    (copied / "result.json").unlink()
    store = CheckpointStore(copied / "checkpoints", keep=1)
    checkpoint = store.read(5)
    del checkpoint.tree["vectorization"]
    store.write(checkpoint)
    with pytest.raises(CorruptCheckpointError, match=r"round 5 does not fit .*'vectorization'"):
        resume(copied)
