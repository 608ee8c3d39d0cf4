"""The report of domains: what is drawn and tabled is what the ledger has."""

from __future__ import annotations

from pathlib import Path

import pytest

from atoll.files.recorded import write_recorded_json
from atoll.platform.callbacks.observers import RoundRecord
from atoll.platform.reports.figures.domain_figures import domain_figures, statistic_rows
from atoll.platform.reports.figures.run_figures import all_figures
from atoll.platform.reports.run_report import write_report
from atoll.platform.run_directory.ledger import Ledger
from atoll.platform.run_directory.run_files import CLIENT_SCHEMA, read_table

PARTITION = {
    "clients": [0],
    "classes": ["no", "yes"],
    "domains": ["real-photo", "art", "grey"],
    "training_domains": ["art"],
    "held_out": ["real-photo"],
    "histogram": [[3, 4]],
}


def write_run(folder: Path, sums_suffice: float = 1.0) -> None:
    """Write a run of four rounds; every second one is evaluated and has diagnostics."""
    ledger = Ledger.create(folder, "[run]\n")
    for number in range(1, 5):
        train = {
            "bytes_up_head-gradient": 100.0,
            "bytes_down_head-gradient": 10.0 * number,
            "sums_suffice": sums_suffice,
        }
        server = {}
        if number % 2 == 0:
            train |= {"transfer_art": 0.2 * number, "transfer_oil": 0.4 * number}
            server = {
                "accuracy": 0.1 * number,
                "accuracy_real-photo": 0.1 * number,
                "accuracy_art": 0.9,
                "accuracy_grey": 0.5,
                "transfer_real-photo": 7.0 + number,
            }
        ledger.on_round(
            RoundRecord(
                server_round=number,
                num_rounds=4,
                seconds=1.0,
                cohort=1,
                replies=1,
                errors=0,
                examples=7,
                train_metrics=train,
                server_metrics=server,
                clients={},
            )
        )
    ledger.flush()
    write_recorded_json(folder / "partition.json", PARTITION)


def test_accuracies_are_drawn_by_domain_and_measures_against_the_unseen_domain(
    tmp_path: Path,
) -> None:
    write_run(tmp_path)
    figures = dict(domain_figures(read_table(tmp_path / "rounds.parquet"), PARTITION))
    lines = {
        line.name: (line.x, line.y, line.dash) for line in figures["Accuracy by domain"].series
    }
    assert lines == {
        "real-photo (held out)": ([2, 4], [0.2, 0.4], "solid"),
        "art (training)": ([2, 4], [0.9, 0.9], "dot"),
        "grey (probe)": ([2, 4], [0.5, 0.5], "dash"),
    }
    points = figures["Transfer measure, against unseen-domain accuracy"].series
    assert [(curve.name, curve.x, curve.y) for curve in points] == [
        ("held-out domain", [9.0, 11.0], [0.2, 0.4]),
        ("training domains, mean", pytest.approx([0.6, 1.2]), [0.2, 0.4]),
    ]
    assert set(figures) == {
        "Accuracy by domain",
        "Transfer measure, against unseen-domain accuracy",
        "Bytes of statistics a round",
    }


@pytest.mark.parametrize(("suffice", "expected"), [(1.0, "yes: only sums"), (0.0, "no: single")])
def test_statistics_have_their_bytes_and_whether_sums_suffice(
    suffice: float, expected: str, tmp_path: Path
) -> None:
    write_run(tmp_path, suffice)
    (row,) = statistic_rows(read_table(tmp_path / "rounds.parquet"))
    assert (row.name, row.up, row.down) == ("head gradient", 100.0, 25.0)
    assert row.survives.startswith(expected)
    page = write_report(tmp_path).read_text()
    assert "survives secure aggregation" in page
    assert row.survives.replace("'", "&#39;") in page


def test_a_run_without_domains_has_none_of_it(tmp_path: Path) -> None:
    ledger = Ledger.create(tmp_path, "[run]\n")
    plain = {"server_round": 1, "num_rounds": 1, "seconds": 1.0, "cohort": 1, "replies": 1}
    ledger.on_round(
        RoundRecord(**plain, errors=0, examples=7, server_metrics={"accuracy": 0.5}, clients={})
    )
    ledger.flush()
    assert domain_figures(read_table(tmp_path / "rounds.parquet"), None) == []
    assert "secure aggregation" not in write_report(tmp_path).read_text()


def test_validation_is_drawn_beside_the_test_and_is_no_way_of_inference(tmp_path: Path) -> None:
    ledger = Ledger.create(tmp_path, "[run]\n")
    record = RoundRecord(
        server_round=1,
        num_rounds=1,
        seconds=1.0,
        cohort=1,
        replies=1,
        errors=0,
        examples=7,
        train_metrics={},
        server_metrics={"accuracy": 0.5, "validation_accuracy": 0.75},
        clients={},
    )
    ledger.on_round(record)
    ledger.flush()
    rounds = read_table(tmp_path / "rounds.parquet")
    drawn = dict(all_figures(rounds, CLIENT_SCHEMA.empty_table(), None))
    assert not any("inference" in title for title in drawn)
    curves = {curve.name: list(curve.y) for curve in drawn["Accuracy"].series}
    assert curves == {"on the server's test data": [0.5], "on validation data": [0.75]}


def test_accuracy_and_loss_come_first_and_axes_have_words(tmp_path: Path) -> None:
    ledger = Ledger.create(tmp_path, "[run]\n")
    metrics = {"calibration_error": 0.25, "loss": 1.0, "accuracy": 0.5}
    ledger.on_round(
        RoundRecord(1, 1, 1.0, 1, 1, 0, 7, train_metrics={}, server_metrics=metrics, clients={})
    )
    ledger.flush()
    rounds = read_table(tmp_path / "rounds.parquet")
    drawn = all_figures(rounds, CLIENT_SCHEMA.empty_table(), None)
    assert [title for title, _ in drawn[:3]] == ["Accuracy", "Loss", "Calibration error"]
    assert [figure.y_title for _, figure in drawn[:3]] == ["accuracy", "loss", "calibration error"]
