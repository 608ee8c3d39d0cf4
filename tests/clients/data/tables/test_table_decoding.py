"""Kinds of columns, targets, groups and test rows of tables; mistakes are one line."""

from __future__ import annotations

import datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from atoll.clients.data.catalog.loading import check_options, load_dataset
from atoll.clients.data.files.dataset import Decoded
from atoll.clients.data.inputs.table import CategoryColumn, NumberColumn, TableInputs
from atoll.clients.data.tables.table_decoding import decode_table, test_mask
from atoll.clients.data.tables.table_files import TableRows
from atoll.clients.data.tables.table_options import TableOptions
from atoll.clients.tasks.classification import Classification
from atoll.clients.tasks.regression import Regression
from atoll.errors import AtollError, InvalidExperimentError

test_mask.__test__ = False  # type: ignore[attr-defined]
Columns = dict[str, Any]


def decode(columns: Columns, **options: Any) -> Decoded:
    rows = TableRows(pa.table(columns), "t.csv")
    return decode_table(rows, TableOptions.model_validate({"target": "y", **options}))


def error_of(columns: Columns, **options: Any) -> str:
    with pytest.raises(AtollError) as caught:
        decode(columns, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def all_values(decoded: Decoded) -> dict[str, list[Any]]:
    """Each column's values in the rows' order (they are told apart by the column "row")."""
    inputs = decoded.inputs
    assert isinstance(inputs, TableInputs)
    rows = np.concatenate([decoded.train.inputs, decoded.test.inputs])
    names = [column.name for column in inputs.columns]
    rows = rows[np.argsort(rows[:, names.index("row")])]
    found: dict[str, list[Any]] = {}
    for column, values in zip(inputs.columns, rows.T, strict=True):
        if isinstance(column, CategoryColumn):
            found[column.name] = [column.categories[int(value)] for value in values]
        else:
            found[column.name] = [None if np.isnan(v) else float(v) for v in values]
    return found


ROW = {"row": list(range(4)), "y": ["no", "yes", "no", "yes"]}


def test_kinds_of_columns_are_found() -> None:
    day = datetime.date(1970, 1, 11)
    columns: Columns = {
        "number": ["1.5", " 2 ", "?", "-3e2"],
        "text": ["b", "NA", "a ", "b"],
        "date": ["1970-01-02", "", "1970-01-03 12:00:00", "1969-12-31"],
        "german": ["03.01.1970", "04.01.1970", None, "05.01.1970"],
        "zone": ["1970-01-02T00:00:00Z", None, "1970-01-03T00:00:00Z", None],
        "constant": ["7", "7", "7", "7"],
        "blank": ["", "NaN", "null", None],
        "native": [1, 2, None, 4],
        "bool": [True, None, False, True],
        "day": [day, None, day, day],
        "float": [1.0, float("nan"), float("inf"), 2.0],
        "mixed": ["1", "2", "x", "4"],
        "unicode": ["é", "日本", "", "🙂"],
        "dictionary": pa.array(["u", "v", None, "u"]).dictionary_encode(),
        "decimal": [Decimal("1.50"), Decimal(2), None, Decimal(4)],
    }
    found = all_values(decode({**columns, **ROW}))
    assert found == {
        "number": [1.5, 2, None, -300],
        "text": ["b", "", "a", "b"],
        "date": [1, None, 2.5, -1],
        "german": [2, 3, None, 4],
        "zone": [1, None, 2, None],
        "constant": [7] * 4,
        "blank": [None] * 4,
        "native": [1, 2, None, 4],
        "bool": ["true", "", "false", "true"],
        "day": [10, None, 10, 10],
        "float": [1, None, None, 2],
        "mixed": ["1", "2", "x", "4"],
        "unicode": ["é", "日本", "", "🙂"],
        "dictionary": ["u", "v", "", "u"],
        "decimal": [1.5, 2, None, 4],
        "row": [0, 1, 2, 3],
    }


def test_kinds_can_be_said() -> None:
    columns: Columns = {"zip": ["0123", "0456", "0123", "0789"], "code": [1, 2, 1, 2], **ROW}
    found = all_values(decode(columns, categories=["zip", "code"]))
    assert found["zip"] == ["0123", "0456", "0123", "0789"]
    assert found["code"] == ["1", "2", "1", "2"]
    inputs = decode(columns, drop=["zip"]).inputs
    assert isinstance(inputs, TableInputs)
    assert [column.name for column in inputs.columns] == ["code", "row"]
    message = error_of({"city": ["Paris", "1", "2", "3"], **ROW}, numbers=["city"])
    assert message == (
        "data.options.numbers = 'city': has 'Paris' (row 1); expected numbers, or dates"
    )


@pytest.mark.parametrize(
    ("target", "options", "expected"),
    [
        (["b", "a", "b", "a"], {}, Classification(classes=("a", "b"))),
        ([10, 2, 2, 10], {}, Classification(classes=("2", "10"))),
        (["1.0", "0", "1", "0"], {}, Classification(classes=("0", "1"))),
        ([True, False, True, True], {}, Classification(classes=("false", "true"))),
        ([0.5, 1.0, 2.0, 3.0], {}, Regression()),
        ([0.5, 1.0, 2.0, 3.0], {"task": "classification"}, None),
        ([1, 0, 1, 0], {"task": "regression"}, Regression()),
        ([1, 0, 3, 0], {"loss": "poisson"}, Regression(loss="poisson")),
    ],
)
def test_the_target_decides_the_task(
    target: list[Any], options: dict[str, Any], expected: Any
) -> None:
    task = decode({"x": [1, 2, 3, 4], "y": target}, **options).task
    if expected is None:
        expected = Classification(classes=("0.5", "1", "2", "3"))
    assert task == expected


def test_many_whole_numbers_are_a_regression() -> None:
    assert isinstance(decode({"x": range(50), "y": list(range(50))}).task, Regression)
    labels = decode({"x": range(50), "y": list(range(50))}).train.labels
    assert labels.dtype == np.float32


def test_rows_without_a_target_are_left_out() -> None:
    decoded = decode({"row": range(6), "y": ["a", "", "b", "?", "a", "b"]})
    assert all_values(decoded)["row"] == [0, 2, 4, 5]


def test_mistakes_are_one_line() -> None:
    x = {"x": [1.0, 2.0, 3.0, 4.0]}
    text = {**x, "y": ["a", "b", "a", "b"]}
    assert error_of(text, target="z") == (
        "data.target = 'z': t.csv has no such column; expected one of x, y"
    )
    assert "did you mean 'y'" in error_of({**text, "group": list("abab")}, target="yy")
    assert error_of(text, group="hospitl").startswith("data.group = 'hospitl': t.csv has no such")
    assert error_of(text, drop=["x"]).startswith("data.target = 'y': no column is left")
    assert "is in data.target too" in error_of(text, drop=["y"])
    assert error_of({**x, "y": list("aaaa")}) == (
        "data.target = 'y': every row has 'a'; expected at least two classes"
    )
    assert error_of(text, task="regression") == (
        "data.options.task = 'regression': data.target = 'y' has 'a' (row 1); expected numbers"
    )
    assert "data.options.loss = 'huber': data.target = 'y' has 'a'" in error_of(text, loss="huber")
    assert "is of a regression" in error_of(text, loss="huber", task="classification")
    assert "no row of t.csv has it" in error_of({**x, "y": ["", None, "?", "NA"]})
    negative = {**x, "y": [1, 2, -3, 4]}
    assert "has -3 (row 3); expected counts" in error_of(negative, loss="poisson")
    assert "expected numbers up to 1e+30" in error_of({**x, "y": [1e31, 0.5, 1, 2]})
    assert "has 1e+200 (row 2)" in error_of({"x": [1, 1e200], "y": ["a", "b"]})
    assert "expected at least two" in error_of({"x": [1], "y": [0.5]})
    assert "is of list<" in error_of({"x": [[1], [2], [3], [4]], "y": list("abab")})
    assert "differ only by '-' and '_'" in error_of({**text, "g": ["a-b", "a_b"] * 2}, group="g")
    assert "without control characters" in error_of({**x, "y": ["a", "b\x07", "a", "a"]})


def test_groups_are_domains_where_they_are_few() -> None:
    columns = {"x": range(100), "y": [0, 1] * 50, "g": [f"h{k % 4}" for k in range(100)]}
    decoded = decode(columns, group="g")
    assert decoded.domains == ("h0", "h1", "h2", "h3")
    assert decoded.train.groups is not None
    assert decoded.train.domains is not None
    assert np.array_equal(decoded.train.groups, decoded.train.domains)
    # A fifth of each group is for test.
    assert decoded.test.groups is not None
    assert np.bincount(decoded.test.groups).tolist() == [5] * 4
    assert isinstance(decoded.inputs, TableInputs)
    assert [column.name for column in decoded.inputs.columns] == ["x"]
    both = decode(columns, group="g", categories=["g"])
    assert isinstance(both.inputs, TableInputs)
    assert [column.name for column in both.inputs.columns] == ["x", "g"]
    many = decode({**columns, "g": range(100)}, group="g")
    assert many.domains == ()
    assert many.train.domains is None
    assert many.train.groups is not None
    assert len(np.unique(np.concatenate([many.train.groups, many.test.groups]))) == 100


def test_test_rows_are_a_share_of_each_group_drawn_by_the_seed() -> None:
    groups = np.repeat([0, 1, 2], [10, 20, 70])
    first, again, other = (test_mask(groups, 100, 0.3, seed) for seed in (0, 0, 1))
    assert np.bincount(groups[first]).tolist() == [3, 6, 21]
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)
    # A row more in one group changes the draw of no other.
    more = test_mask(np.append(groups, 2), 101, 0.3, 0)
    assert np.array_equal(more[:30], first[:30])


def test_a_file_of_test_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ATOLL_CACHE", str(tmp_path / "cache"))
    (tmp_path / "train.csv").write_text("x,y,c\n1,a,u\n2,b,v\n3,a,u\n")
    (tmp_path / "test.csv").write_text("c,x,y\nw,4,b\n")
    options = {"target": "y", "test_path": tmp_path / "test.csv"}
    dataset = load_dataset("table", tmp_path / "train.csv", options)
    assert len(dataset.train) == 3
    assert dataset.test.inputs.tolist() == [[4, 3]]
    assert isinstance(dataset.inputs, TableInputs)
    assert dataset.inputs.columns == (
        NumberColumn(name="x"),
        CategoryColumn(name="c", categories=("", "u", "v", "w")),
    )
    # The same again, from the cache; other options or contents make another.
    assert load_dataset("table", tmp_path / "train.csv", options).directory == dataset.directory
    other = load_dataset("table", tmp_path / "train.csv", {**options, "drop": ["c"]})
    assert other.directory != dataset.directory
    (tmp_path / "test.csv").write_text("x,y\n4,b\n")
    with pytest.raises(AtollError, match="has no column 'c'"):
        load_dataset("table", tmp_path / "train.csv", options)


def test_columns_are_refused_where_they_are_the_data_sets_own() -> None:
    with pytest.raises(InvalidExperimentError) as caught:
        check_options("digits", {"target": "label"})
    assert str(caught.value) == (
        "data.target = 'label': data.dataset = 'digits' has columns of its own; expected it to be "
        "left out"
    )
    with pytest.raises(InvalidExperimentError, match=r"^data\.target is not set; expected the col"):
        check_options("table", {})
    with pytest.raises(InvalidExperimentError, match=r"^data\.path is not set"):
        load_dataset("table", None, {"target": "y"})


def test_a_hundred_thousand_categories() -> None:
    names = [f"c{k}" for k in range(100_000)]
    decoded = decode({"x": names, "y": [0, 1] * 50_000})
    assert isinstance(decoded.inputs, TableInputs)
    [column] = decoded.inputs.columns
    assert isinstance(column, CategoryColumn)
    assert len(column.categories) == 100_001
