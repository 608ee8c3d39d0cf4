"""Columns of metrics whose kind changes from round to round."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from flwr.app import MetricRecord

from atoll.platform.callbacks.observers import RoundRecord
from atoll.platform.grid.exchange.dispatch import ExchangeReport
from atoll.platform.grid.exchange.node_sums import Traffic
from atoll.platform.messages.outcome import ClientReply, Outcome
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


def test_what_is_no_number_is_left_out() -> None:
    odd: Any = {
        "text": "t",
        1: np.float32(0.5),
        "on": True,
        "count": np.int64(3),
        "mixed": [1, "a"],
        "deep": [[1.0]],
        "none": None,
    }
    found = round_record(1, 1, 0.1, [], lambda partition: None, server=odd)
    assert found.server_metrics == {"1": 0.5, "on": 1, "count": 3}
    for nothing in (3, 0.5, "text", [1.0]):
        given: Any = nothing
        assert (
            round_record(1, 1, 0.1, [], lambda partition: None, evaluate=given).evaluate_metrics
            == {}
        )


CLIENTS: list[dict[str, Any]] = [
    {"num-examples": 10**40, "loss": 10**400, "epsilon": -(10**400), "layers": [1, 10**30]},
    {"num-examples": float("nan"), "loss": [1.0], "layers": 3, "peak-memory": 1e300},
    {"num_examples": [1], "acc": float("inf"), "layers": [float("nan")]},
    {"personal-loss": 1.0, "num-examples": 2.5, "layers": [1.5]},
    {"personal-loss": [1.0], "loss": 2.0, "num-examples": -3},
    {"personal-": 10**400, "": 1, "num-examples": 2**53 + 2},
]


def test_a_ledger_holds_what_clients_report(tmp_path: Path) -> None:
    outcomes = [Outcome(p, p + 1, ClientReply(metrics)) for p, metrics in enumerate(CLIENTS)]
    sizes = [8] * len(outcomes)
    ledger = Ledger(tmp_path)
    for kind in ("train", "evaluate"):
        report = ExchangeReport(kind, 1, outcomes, sizes, Traffic())
        ledger.on_round(round_record(1, 1, 0.1, [report], lambda partition: None))
    ledger.flush()
    columns = pq.read_table(tmp_path / "clients.parquet").slice(0, 6).to_pydict()
    assert columns["examples"] == [None, None, None, 2, -3, None]
    assert columns["loss"] == [float("inf"), None, None, None, 2.0, None]
    assert columns["accuracy"] == [None, None, float("inf"), None, None, None]
    assert columns["epsilon"] == [float("-inf"), *[None] * 5]
    assert columns["layers"] == [None, None, None, [1], None, None]
    assert columns["peak_memory"] == [None] * 6
