"""Metrics' names: what the ledger writes is read back, and found by its column's name."""

from __future__ import annotations

from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from atoll.platform.callbacks.metric_names import (
    GROUPS,
    SERVER_ACCURACY,
    column_of,
    domain_metric,
    group_of,
    metrics_in,
)
from atoll.platform.callbacks.observers import RoundRecord
from atoll.platform.cli.watching.run_standing import read_rounds
from atoll.platform.run_directory.ledger import Ledger


@given(st.sampled_from(GROUPS), st.from_regex(r"[a-z]+([-_][a-z0-9.]+){0,3}", fullmatch=True))
def test_a_column_has_its_group_and_name(group: str, name: str) -> None:
    column = column_of(group, name)
    assert group_of(column) == (group, name.replace("-", "_"))
    assert metrics_in({column: 1.0, "seconds": 2.0}, group) == {name.replace("-", "_"): 1.0}


def test_other_columns_have_no_group() -> None:
    assert group_of("round") == ("", "round")
    assert group_of("bytes_down") == ("", "bytes_down")


def test_a_round_is_read_back_with_its_metrics(tmp_path: Path) -> None:
    record = RoundRecord(
        server_round=1,
        num_rounds=1,
        seconds=0.5,
        cohort=2,
        replies=2,
        errors=0,
        examples=10,
        train_metrics={"train-loss": 0.25},
        server_metrics={"accuracy": 0.5, "accuracy_e-0.1": 0.75},
    )
    ledger = Ledger(tmp_path)
    ledger.on_round(record)
    ledger.close()
    [read] = read_rounds(tmp_path)
    assert read.groups == {
        "train": {"train_loss": 0.25},
        "evaluate": {},
        "server": {"accuracy": 0.5, "accuracy_e_0.1": 0.75},
    }
    assert (
        record.metric(domain_metric(SERVER_ACCURACY, "e-0.1"))
        == read.metric("server_accuracy_e-0.1")
        == 0.75
    )
    assert record.metric("server_nothing") is None
    assert dict(record.scalars())["train/train-loss"] == 0.25
    assert dict(record.scalars())["round/errors"] == 0
