"""Files of runs that are written, killed and resumed: readers take them for what they are."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest

from atoll.errors import RunDirectoryError
from atoll.files.recorded import write_recorded_json
from atoll.platform.reports.run_report import write_report
from atoll.platform.run_directory.ledger import Ledger
from atoll.platform.run_directory.run_files import (
    read_engine,
    read_result,
    read_rounds_table,
)
from tests.support.paths import ROOT
from tests.support.runs.foreign_files import RESULT, write_run


@pytest.mark.slow
def test_a_running_run_can_be_read_at_any_moment(tmp_path: Path) -> None:
    """A reader in another process never takes a file that is being replaced for a changed one."""
    directory = write_run(tmp_path / "run", finished=False)
    code = f"""
        from pathlib import Path
        from atoll.files.recorded import write_recorded_json, remove_recorded
        from tests.support.runs.foreign_files import RESULT
        from atoll.platform.run_directory.ledger import Ledger
        directory = Path({str(directory)!r})
        print("begun", flush=True)
        for number in range(150):
            write_recorded_json(directory / "engine.json", {{
                "workers": number, "clients": 2, "parameters": 650, "strategy": "FedAvg",
                "num_rounds": 1, "notes": [],
            }})
            if number % 10 == 0:
                ledger = Ledger.reopen(directory, 1)
                ledger.write_result({{**RESULT, "rounds": 1, "wall_seconds": float(number)}})
    """
    writer = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(code)],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        text=True,
    )
    assert writer.stdout is not None
    assert writer.stdout.readline() == "begun\n"
    reads = 0
    while writer.poll() is None:
        engine, result = read_engine(directory), read_result(directory)
        assert engine is not None
        assert result is None or result["rounds"] == 1
        assert len(read_rounds_table(directory / "rounds.parquet")) == 1
        reads += 1
    assert writer.returncode == 0
    assert reads > 10


def test_a_kill_between_manifest_and_file_leaves_a_readable_run(
    copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(self: Path, target: Path) -> Path:
        if target.name != "manifest.json":
            raise KeyboardInterrupt
        return real(self, target)

    real = Path.replace
    before = read_engine(copy)
    monkeypatch.setattr(Path, "replace", killed)
    with pytest.raises(KeyboardInterrupt):
        write_recorded_json(copy / "engine.json", {"workers": 9})
    with pytest.raises(KeyboardInterrupt):
        write_recorded_json(copy / "new.json", {})
    monkeypatch.undo()
    assert read_engine(copy) == before
    Ledger.reopen(copy, 1).write_result(RESULT)
    write_report(copy)


def test_a_run_that_continues_is_sealed_anew_and_one_of_before_is_adopted(copy: Path) -> None:
    for has_manifest in (True, False):
        if not has_manifest:
            (copy / "manifest.json").unlink()
        ledger = Ledger.reopen(copy, 1)
        assert read_result(copy) is None
        ledger.close()
        sealed = json.loads((copy / "manifest.json").read_text())["files"]
        assert {"config.toml", "engine.json", "rounds.parquet", "clients.parquet"} <= set(sealed)
        ledger.write_result(RESULT)
        write_report(copy)
        path = copy / "clients.parquet"
        content = path.read_bytes()
        path.write_bytes(content[:-9] + bytes([content[-9] ^ 1]) + content[-8:])
        with pytest.raises(RunDirectoryError, match=r"clients\.parquet: is not what was written"):
            write_report(copy)
        path.write_bytes(content)


def test_while_it_grows_a_tables_pages_are_checked(tmp_path: Path) -> None:
    directory = write_run(tmp_path / "run", finished=False)
    Ledger.reopen(directory, 1)
    path = directory / "rounds.parquet"
    names = json.loads((directory / "manifest.json").read_text())["files"]
    assert "rounds.parquet" not in names
    content = path.read_bytes()
    value = np.float64(0.5).tobytes()
    place = content.index(value)
    path.write_bytes(content[:place] + np.float64(0.75).tobytes() + content[place + 8 :])
    with pytest.raises(RunDirectoryError, match=r"rounds\.parquet: cannot be read .*CRC"):
        read_rounds_table(path)
