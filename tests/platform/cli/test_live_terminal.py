"""A run as the user of a terminal sees it: a line a round that stays, and nothing cut."""

from __future__ import annotations

import io
import re
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from rich.console import Console

from atoll.platform.callbacks.observers import RoundRecord, RunInfo
from atoll.platform.callbacks.round_figures import line_of
from atoll.platform.cli.output.progress import ConsoleProgress
from atoll.platform.cli.output.round_table import RoundTable
from tests.support.paths import ROOT
from tests.support.runs.terminal import in_terminal

EXPERIMENT = """
run = { name = "terminal", rounds = 6, seed = 1, evaluate_every = 2 }
data = { dataset = "digits", clients = 8 }
model = { name = "mlp", hidden = [16] }
strategy = { name = "FedAvg", fraction_train = 0.5, fraction_evaluate = 0.5 }
"""


def of_round(number: int, **more: object) -> RoundRecord:
    record = {
        "server_round": number,
        "num_rounds": 1000,
        "seconds": 12.5,
        "cohort": 1000,
        "replies": 1000,
        "errors": 0,
        "examples": 10,
        "train_metrics": {"train_loss": 2.25, "train_accuracy": 0.25},
        "evaluate_metrics": {"evaluate_loss": 2.5, "evaluate_accuracy": 0.5},
        "server_metrics": {"loss": 2.75, "accuracy": 0.75, "per_class": [0.5]},
    }
    return RoundRecord(**{**record, **more})  # type: ignore[arg-type]


@pytest.mark.long
@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.parametrize("columns", [80, 120])
def test_every_round_has_a_line_that_stays_above_the_bar(
    tmp_path: Path, joining: dict[str, str], columns: int
) -> None:
    (tmp_path / "terminal.toml").write_text(EXPERIMENT)
    command = [sys.executable, "-m", "atoll", "run", "terminal.toml", "--out", "run"]
    env = {**joining, "PYTHONPATH": str(ROOT)}
    seen = in_terminal(command, columns=columns, env=env, cwd=tmp_path)
    assert seen.returncode == 0, seen.last
    assert seen.frames[0][0].split() == [
        *("terminal.toml:", "loading", "PyTorch,", "Flower", "and", "Ray")
    ]
    assert not seen.is_cursor_hidden
    table = pq.read_table(tmp_path / "run" / "rounds.parquet").to_pylist()
    rows = [line.split() for line in seen.last if re.match(r" *\d/6 ", line)]
    assert len(rows) == 6
    for row, line in zip(table, rows, strict=True):
        names = ("evaluate_accuracy", "evaluate_loss", "train_loss")
        if row["round"] % 2 == 0:
            names = ("server_accuracy", "server_loss", *names)
        figures = [f"{row[name]:.4f}" for name in names]
        assert line == [f"{row['round']}/6", *figures, "4/4", f"{row['seconds']:.2f}"]
    # While it ran, the rounds' lines were above a bar that said how far the round was.
    assert any(
        re.match(r"round +\d/6 .*(train|evaluate): \d of \d clients", frame[-1])
        and frame[-2].split()[0] == "3/6"
        for frame in seen.frames
        if len(frame) > 2
    )
    assert not any("…" in line for frame in seen.frames for line in frame)


def test_six_columns_of_figures_fit_in_eighty_characters() -> None:
    table, record = RoundTable(1000), of_round(1000)
    above, names = table.headings(record)
    assert above.split() == ["server", "clients", "train"]
    assert names.split() == ["round", *["accuracy", "loss"] * 3, "trained", "time/s"]
    row = table.row(record)
    figures = ["0.7500", "2.7500", "0.5000", "2.5000", "0.2500", "2.2500"]
    assert row.split() == ["1000/1000", *figures, "1000/1000", "12.50"]
    assert len(row) == len(names) <= 82
    # A figure ends where its heading does.
    assert row.index("2.7500") + 6 == names.index("loss") + 4


def test_headings_come_again_where_the_columns_change() -> None:
    table = RoundTable(10)
    only_train = {"evaluate_metrics": {}, "server_metrics": {}}
    assert table.headings(of_round(1, **only_train))
    assert table.headings(of_round(2, **only_train)) == []
    assert "server" in table.headings(of_round(3))[0]
    assert table.headings(of_round(4, **only_train)) == []
    assert table.row(of_round(4, **only_train, errors=3)).endswith(", 3 failed")
    assert len(table.row(of_round(4, **only_train))) == len(table.row(of_round(5)))


def test_client_counts_of_five_digits_shorten_the_bar_alone(tmp_path: Path) -> None:
    shown = io.StringIO()
    progress = ConsoleProgress(Console(file=shown, force_terminal=True, width=80))
    progress.on_start(RunInfo("large", tmp_path, 1000, 1, 1, 10000, 9, "FedAvg"))
    progress.on_clients("evaluate", 10000, 10000)
    progress.close()
    text = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", shown.getvalue())
    assert re.search(r"round +0/1000 ━+ evaluate: 10000 of 10000 clients", text)


def test_a_pipe_has_lines_that_need_no_headings() -> None:
    assert line_of(of_round(3, errors=2), "clients") == (
        "round 3/1000  server accuracy 0.7500  server loss 2.7500  clients accuracy 0.5000  "
        "clients loss 2.5000  train accuracy 0.2500  train loss 2.2500  "
        "1000/1000 clients, 2 failed  12.50 s"
    )
