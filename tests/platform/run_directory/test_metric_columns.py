"""Columns of metrics whose kind changes from round to round."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
from flwr.app import MetricRecord

from atoll.platform.callbacks.observers import RoundRecord
from atoll.platform.rounds.round_records import round_record
from atoll.platform.run_directory.ledger import Ledger

METRICS: list[dict[str, Any]] = [
    {"a": 1, "b": [1, 2], "large": 2**70},
    {"a": 0.5, "b": 3, "larger": -(10**400)},
    {"a": [1.0, 2.0], "b": [], "caf\udce9": 7},
    {"a": [], "large": [2**65, 1]},
    {},
]


def record(server_round: int) -> RoundRecord:
    metrics = MetricRecord(METRICS[server_round - 1])
    return round_record(server_round, 5, 0.1, [], lambda partition: None, train=metrics)


def written(directory: Path, rounds: list[int]) -> None:
    ledger = Ledger(directory) if rounds[0] == 1 else Ledger.reopen(directory, rounds[0] - 1)
    for server_round in rounds:
        ledger.on_round(record(server_round))
    ledger.flush()


def test_a_metric_may_be_a_number_and_a_list(tmp_path: Path) -> None:
    for folder, runs in (("whole", [[1, 2, 3, 4, 5]]), ("resumed", [[1, 2], [3], [4, 5]])):
        (tmp_path / folder).mkdir()
        for rounds in runs:
            written(tmp_path / folder, rounds)
        table = pq.read_table(tmp_path / folder / "rounds.parquet")
        columns = {name: table.column(name).to_pylist() for name in table.column_names}
        assert columns["train_a"] == [1.0, 0.5, None, None, None]
        assert columns["train_a (list)"] == [None, None, [1.0, 2.0], [], None]
        assert columns["train_b"] == [[1, 2], [3], [], None, None]
        assert columns["train_large"] == [2.0**70, None, None, None, None]
        assert columns["train_large (list)"] == [None, None, None, [2.0**65, 1.0], None]
        assert columns["train_larger"] == [None, float("-inf"), None, None, None]
        assert columns["train_caf\\udce9"] == [None, None, 7, None, None]
