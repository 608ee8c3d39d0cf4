"""Tables in their forms."""

from __future__ import annotations

import csv
import io
import math

import pytest

from atoll.platform.reports.tables import Estimate, Table, as_csv, as_latex, as_text, written

TABLE = Table(
    "figures",
    ["run", "accuracy", "rounds"],
    [
        ["a_b & c", Estimate(0.951, 3, low=0.941, high=0.961, of="seed"), 5],
        ["50 %", Estimate(0.9, 1, of="seed"), None],
    ],
    "mean ± interval",
)


def test_text_is_aligned() -> None:
    assert as_text(TABLE).splitlines() == [
        "figures (mean ± interval)",
        "run      accuracy                   rounds",
        "a_b & c  0.9510 ± 0.0100 (3 seeds)  5",
        "50 %     0.9000 (1 seed)            -",
    ]


def test_latex_escapes_what_is_its_own() -> None:
    lines = as_latex(TABLE).splitlines()
    assert lines[1] == r"\begin{tabular}{lrr}"
    assert lines[5] == r"a\_b \& c & $0.9510 \pm 0.0100$ (3 seeds) & 5 \\"
    assert lines[6] == r"50 \% & $0.9000$ (1 seed) & - \\"


def test_csv_has_numbers_in_columns_of_their_own() -> None:
    rows = list(csv.DictReader(io.StringIO(as_csv([TABLE]))))
    assert rows[0] == {
        "run": "a_b & c",
        "accuracy": "0.951",
        "accuracy low": "0.941",
        "accuracy high": "0.961",
        "accuracy n": "3",
        "rounds": "5",
    }
    assert (rows[1]["accuracy"], rows[1]["accuracy low"], rows[1]["rounds"]) == ("0.9", "", "")
    both = list(csv.DictReader(io.StringIO(as_csv([TABLE, Table("more", ["x"], [["y"]])]))))
    assert [row["table"] for row in both] == ["figures", "figures", "more"]
    assert as_csv([Table("none", ["a", "b"], [])]) == "a,b\n"


@pytest.mark.parametrize("form", ["text", "markdown", "latex", "csv"])
def test_every_form_is_written(form: str) -> None:
    assert "0.9" in written([TABLE], form)


def test_intervals_that_lean_show_their_ends_and_scales_are_for_the_eye() -> None:
    assert str(Estimate(0.5, 4, low=0.4, high=0.7, digits=1)) == "0.5 [0.4, 0.7]"
    percent = Estimate(0.505, 2, error=0.005, digits=1, scale=100.0, of="seed")
    assert str(percent) == "50.5 ± 0.5 (2 seeds)"
    assert percent.values() == {"": 0.505, " standard error": 0.005, " n": 2}
    assert math.isnan(Estimate(math.nan, 0).values()[""])
    assert "\x1b" not in as_text(Table("t", ["x"], [["a\x1b[2J"]]))
