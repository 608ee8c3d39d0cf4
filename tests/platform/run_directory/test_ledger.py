"""The ledger: whole at any moment, cut back on resume, bounded in memory; and the report of it."""

from __future__ import annotations

import json
import threading
from dataclasses import replace
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from atoll.errors import RunDirectoryError
from atoll.files.atomic import replacing, write_text
from atoll.platform.callbacks.early_stopping import EarlyStopping
from atoll.platform.callbacks.observers import RoundRecord, RunInfo
from atoll.platform.config.sections import EarlyStoppingSettings
from atoll.platform.reports.run_report import headline, write_report
from atoll.platform.run_directory.ledger import Ledger, ParquetTable
from atoll.platform.run_directory.run_files import read_result, read_table
from atoll.platform.runs.session import claim_run_directory


def record(server_round: int, clients: int = 3, **server: object) -> RoundRecord:
    columns = {
        "round": [server_round] * clients,
        "phase": ["train"] * clients,
        "node_id": list(range(1, clients + 1)),
        "partition": list(range(clients)),
        "domain": [None] * clients,
        "examples": [10] * clients,
        "loss": [0.5] * clients,
        "accuracy": [None] * clients,
        "epsilon": [None] * clients,
        "seconds": [0.1] * clients,
        "worker": ["worker-0"] * clients,
        "status": ["ok"] * (clients - 1) + ["error"],
        "reason": [None] * (clients - 1) + ["<b>raised</b> ValueError"],
    }
    return RoundRecord(
        server_round=server_round,
        num_rounds=9,
        seconds=0.5,
        cohort=clients,
        replies=clients - 1,
        errors=1,
        examples=30,
        server_metrics=server,
        clients=columns,
    )


def test_rows_are_there_after_a_flush_and_cut_back_on_resume(tmp_path: Path) -> None:
    ledger = Ledger.create(tmp_path, "[run]\n")
    for server_round in range(1, 6):
        ledger.on_round(record(server_round, accuracy=server_round / 10))
    ledger.flush()
    assert read_table(tmp_path / "rounds.parquet").column("round").to_pylist() == [1, 2, 3, 4, 5]
    assert len(read_table(tmp_path / "clients.parquet")) == 15
    ledger.write_result({"rounds": 5})
    again = Ledger.reopen(tmp_path, 3)
    assert read_result(tmp_path) is None
    again.on_round(record(4, accuracy=0.4, late=1.0))
    again.flush()
    rounds = read_table(tmp_path / "rounds.parquet")
    assert rounds.column("round").to_pylist() == [1, 2, 3, 4]
    assert rounds.column("server_late").to_pylist() == [None, None, None, 1.0]
    assert len(read_table(tmp_path / "clients.parquet")) == 12


@pytest.mark.slow
def test_a_reader_never_sees_half_a_file(tmp_path: Path) -> None:
    ledger = Ledger.create(tmp_path, "[run]\n")
    ledger.on_round(record(1))
    ledger.flush()
    done, problems = threading.Event(), []

    def read() -> None:
        while not done.is_set():
            try:
                rows = pq.read_table(tmp_path / "clients.parquet")
                assert len(rows) % 3 == 0
            except Exception as error:
                problems.append(error)

    reader = threading.Thread(target=read)
    reader.start()
    for server_round in range(2, 20):
        ledger.on_round(record(server_round))
        ledger.flush()
    done.set()
    reader.join()
    assert not problems


def test_large_tables_are_rewritten_by_row_group(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr("atoll.platform.run_directory.ledger.ROW_GROUP", 50)
    monkeypatch.setattr("atoll.platform.run_directory.ledger.SMALL_GROUPS", 4)
    table = ParquetTable(tmp_path / "clients.parquet")
    ledger = Ledger(tmp_path)
    for server_round in range(1, 40):
        ledger.on_round(record(server_round, clients=7))
        ledger.flush()
    rows = read_table(tmp_path / "clients.parquet")
    assert rows.column("round").to_pylist() == [r for r in range(1, 40) for _ in range(7)]
    assert pq.ParquetFile(tmp_path / "clients.parquet").num_row_groups < 12
    table.truncate(10)
    assert len(read_table(tmp_path / "clients.parquet")) == 70


def test_a_failed_write_keeps_what_was_there(tmp_path: Path) -> None:
    path = tmp_path / "x.txt"
    write_text(path, "old")
    with pytest.raises(RunDirectoryError, match=r"x\.txt: cannot be written .*is kept"):
        with replacing(path) as partial:
            partial.write_text("new")
            raise OSError(28, "No space left on device")
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_rows_are_written_once_though_a_flush_is_interrupted_after_its_write(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ledger = Ledger.create(tmp_path, "[run]\n")
    ledger.on_round(record(1))
    ledger.flush()
    sound = ParquetTable._rewrite

    def interrupted(table: ParquetTable, added: object) -> None:
        sound(table, added)
        raise KeyboardInterrupt

    ledger.on_round(record(2))
    with monkeypatch.context() as patched:
        patched.setattr(ParquetTable, "_rewrite", interrupted)
        with pytest.raises(KeyboardInterrupt):
            ledger.flush()
    ledger.on_round(record(3))
    ledger.flush()
    assert read_table(tmp_path / "rounds.parquet").column("round").to_pylist() == [1, 2, 3]
    assert len(read_table(tmp_path / "clients.parquet")) == 9


def test_the_result_is_of_the_ledgers_last_round(tmp_path: Path) -> None:
    ledger = Ledger.create(tmp_path, "[run]\n")
    assert ledger.last_round() == (0, {})
    ledger.on_round(record(1, **{"top-5": 0.5}))
    ledger.on_round(record(2, accuracy=0.25, per_class_accuracy=[0.5, 0.0]))
    ledger.flush()
    expected = {"server_accuracy": 0.25, "server_per_class_accuracy": [0.5, 0.0]}
    assert ledger.last_round() == (2, expected)


def test_two_that_begin_at_once_get_directories_of_their_own(tmp_path: Path) -> None:
    first = claim_run_directory(None, tmp_path, "run")
    second = claim_run_directory(None, tmp_path, "run")
    assert (first.directory.name, second.directory.name) == ("run", "run-2")
    with pytest.raises(RunDirectoryError, match="another process"):
        claim_run_directory(first.directory, tmp_path, "run")
    (first.directory / "config.toml").touch()
    for lock in (first, second):
        lock.release()
    # A claim that came to nothing leaves nothing; another's run is not taken over.
    assert [path.name for path in tmp_path.iterdir()] == ["run"]
    with pytest.raises(RunDirectoryError, match="not empty"):
        claim_run_directory(first.directory, tmp_path, "run")
    (tmp_path / "file").touch()
    with pytest.raises(RunDirectoryError, match="is a file; expected a new directory"):
        claim_run_directory(tmp_path / "file", tmp_path, "run")


def test_what_cannot_be_read_says_so(tmp_path: Path) -> None:
    (tmp_path / "rounds.parquet").write_text("not parquet")
    (tmp_path / "result.json").write_text("{")
    with pytest.raises(RunDirectoryError, match=r"rounds\.parquet: cannot be read"):
        read_table(tmp_path / "rounds.parquet")
    with pytest.raises(RunDirectoryError, match=r"result\.json: cannot be read"):
        read_result(tmp_path)
    (tmp_path / "result.json").write_text('{"rounds": 3}')
    with pytest.raises(RunDirectoryError, match=r"result\.json: .*has no 'metrics'"):
        read_result(tmp_path)
    with pytest.raises(RunDirectoryError, match="is not a run directory"):
        write_report(tmp_path)


def test_the_report_is_one_offline_file_and_escapes_what_clients_said(tmp_path: Path) -> None:
    ledger = Ledger.create(tmp_path, '[run]\nname = "x"\n')
    write_report(tmp_path)
    for server_round in (1, 2):
        ledger.on_round(record(server_round, accuracy=0.25, per_class_accuracy=[0.5, 0.0]))
    ledger.flush()
    page = write_report(tmp_path).read_text()
    assert "Not finished" in page
    assert "&lt;b&gt;raised&lt;/b&gt; ValueError" in page
    assert "<b>raised</b>" not in page
    for title in ("Accuracy", "Accuracy per class", "Seconds a round", "Faults"):
        assert title in page
    assert headline(tmp_path)["client errors"] == "2"
    assert headline(tmp_path)["server accuracy"] == "0.2500"


def test_early_stopping_waits_for_its_patience_and_knows_its_target() -> None:
    def rounds_until_stop(values: list[float], **given: object) -> int | None:
        rule = EarlyStopping(EarlyStoppingSettings(**given))
        for number, value in enumerate(values, start=1):
            middle = EarlyStopping(EarlyStoppingSettings(**given))
            middle.load_state_dict(rule.state_dict())
            rule = middle
            if rule.should_stop(record(number, accuracy=value)) is not None:
                return number
        return None

    assert rounds_until_stop([0.1, 0.2, 0.2, 0.1], patience=2) == 4
    assert rounds_until_stop([0.1, 0.2, 0.3, 0.4], patience=2) is None
    assert rounds_until_stop([0.1, 0.2, 0.21, 0.22], patience=2, min_delta=0.05) == 4
    assert rounds_until_stop([0.1, 0.9, 0.1], target=0.5) == 2
    assert rounds_until_stop([3.0, 2.0, 2.5, 2.6], patience=2, mode="min") == 4


def test_what_gpus_came_to_is_noted_beside_what_the_engine_decided(tmp_path: Path) -> None:
    ledger = Ledger.create(tmp_path, "[run]\n")
    ledger.on_start(RunInfo("run", tmp_path, 9, 1, 4, 3, 10, "FedAvg"))
    ledger.on_round(record(1))
    assert "gpus" not in json.loads((tmp_path / "engine.json").read_text())
    gpu = {"gpu": "GPU 0 of node a", "workers": 2, "peak_bytes": 5, "back_offs": 1}
    ledger.on_round(replace(record(2), gpus=[gpu]))
    notes = json.loads((tmp_path / "engine.json").read_text())
    assert notes["gpus"] == [gpu]
    assert notes["workers"] == 4
