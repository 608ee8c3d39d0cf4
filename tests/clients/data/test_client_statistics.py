"""Statistics of clients: exact, of their training examples alone, and known by sums alone."""

from __future__ import annotations

import csv
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from atoll.clients.data.catalog.loading import load_dataset
from atoll.clients.data.client_statistics import (
    CenteredSums,
    FirstSums,
    centered_sums,
    first_sums,
    fit_to_clients,
)
from atoll.clients.data.files.dataset import Dataset, Decoded, write_dataset
from atoll.clients.data.inputs.table import CategoryColumn, NumberColumn, TableInputs
from atoll.clients.data.partitioning.partition import Partition, partition_dataset
from atoll.clients.data.tables.table_decoding import decode_table
from atoll.clients.data.tables.table_files import TableRows, read_rows
from atoll.clients.data.tables.table_options import TableOptions
from atoll.clients.settings import DataSettings
from atoll.clients.tasks.regression import Regression
from atoll.errors import AtollError


@pytest.fixture(autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ATOLL_CACHE", str(tmp_path_factory.mktemp("cache")))


def written(decoded: Decoded) -> Dataset:
    folder = Path(tempfile.mkdtemp())
    write_dataset("t", decoded, folder)
    return Dataset(folder)


def dealt(owners: NDArray[np.int64], clients: int) -> Partition:
    folder = Path(tempfile.mkdtemp())
    sizes = np.bincount(owners, minlength=clients)
    np.save(folder / "offsets.npy", np.concatenate([[0], np.cumsum(sizes)]))
    np.save(folder / "indices.npy", np.argsort(owners, kind="stable"))
    return Partition(folder)


def made(rows: int = 90, target: str = "y", seed: int = 0, **options: Any) -> Dataset:
    rng = np.random.default_rng(seed)
    table = pa.table(
        {
            "whole": rng.integers(-50, 50, rows),
            "gaps": pa.array(rng.integers(0, 9, rows), mask=rng.random(rows) < 0.2),
            "name": rng.choice(["a", "b", "c"], rows),
            "y": rng.integers(0, 100, rows),
        }
    )
    given = TableOptions.model_validate({"target": target, **options})
    return written(decode_table(TableRows(table, "t"), given))


def test_statistics_are_those_of_all_clients_training_examples() -> None:
    dataset = made()
    owners = np.random.default_rng(1).integers(0, 5, len(dataset.train))
    partition = dealt(owners, 7)
    fitted = fit_to_clients(dataset, partition, 0.25, seed=3)
    own = np.concatenate([partition.split(client, 0.25, 3)[0] for client in range(7)])
    assert 0 < len(own) < len(dataset.train)
    rows, labels = dataset.train.inputs[own], dataset.train.labels[own].astype(np.float64)
    assert isinstance(fitted.inputs, TableInputs)
    for place in (0, 1):
        column = fitted.inputs.columns[place]
        assert isinstance(column, NumberColumn)
        assert column.mean == pytest.approx(np.nanmean(rows[:, place]), rel=1e-12)
        assert column.std == pytest.approx(np.nanstd(rows[:, place]), rel=1e-12)
        assert column.has_missing == bool(np.isnan(rows[:, place]).any())
    assert isinstance(fitted.task, Regression)
    assert fitted.task.center == pytest.approx(labels.mean(), rel=1e-12)
    assert fitted.task.scale == pytest.approx(labels.std(), rel=1e-12)
    # The same examples and fingerprint, as settings are recorded by themselves; made once.
    assert fitted.fingerprint == dataset.fingerprint
    assert np.array_equal(fitted.train.inputs, dataset.train.inputs, equal_nan=True)
    arrow = "train.arrow"
    assert (fitted.directory / arrow).samefile(dataset.directory / arrow)
    again = fit_to_clients(dataset, partition, 0.25, seed=3)
    assert again.directory == fitted.directory
    assert fit_to_clients(fitted, partition, 0.25, seed=3) is fitted


def test_counts_are_not_standardised_and_fixed_columns_stay() -> None:
    dataset = made(loss="poisson")
    partition = dealt(np.zeros(len(dataset.train), np.int64), 1)
    assert fit_to_clients(dataset, partition, 0.0, seed=0).task == Regression(loss="poisson")
    assert isinstance(dataset.inputs, TableInputs)
    first = dataset.inputs.columns[0].model_copy(update={"is_fixed": True})
    inputs = TableInputs(columns=(first, *dataset.inputs.columns[1:]))
    decoded = Decoded(dataset.task, dataset.train, dataset.test, inputs=inputs)
    fitted = fit_to_clients(written(decoded), partition, 0.0, seed=0).inputs
    assert isinstance(fitted, TableInputs)
    assert fitted.columns[0] == first
    assert fitted.columns[1] != inputs.columns[1]


def test_images_with_classes_are_returned_as_they_are() -> None:
    digits = load_dataset("digits")
    partition = partition_dataset(digits, DataSettings(dataset="digits", clients=3), seed=0)
    assert fit_to_clients(digits, partition, 0.2, seed=0) is digits


def test_categories_that_clients_do_not_have_are_one_unknown() -> None:
    table = pa.table({"c": ["a", "b", "z", "a", "", "q"], "x": range(6), "y": [0, 1] * 3})
    test = pa.table({"c": ["new", "a", ""], "x": range(3), "y": [0, 1, 0]})
    options = TableOptions(target="y")
    dataset = written(decode_table(TableRows(table, "t"), options, TableRows(test, "u")))
    # No client has the last two rows: "" and "q".
    partition = dealt(np.zeros(4, np.int64), 1)
    inputs = fit_to_clients(dataset, partition, 0.0, seed=0).inputs
    assert isinstance(inputs, TableInputs)
    column = inputs.columns[0]
    assert isinstance(column, CategoryColumn)
    assert column.known is not None
    assert [column.categories[place] for place in column.known] == ["a", "b", "z"]
    assert inputs.to_tensor(dataset.train.inputs)[:, -1].tolist() == [1, 2, 3, 1, 0, 0]
    assert inputs.to_tensor(dataset.test.inputs)[:, -1].tolist() == [0, 1, 0]


@given(st.integers(0, 1000))
@settings(max_examples=20, deadline=None)
def test_a_client_depends_on_others_through_their_sums_alone(seed: int) -> None:
    """Rows of others change as they may while all of their sums stay: nothing changes."""
    rng = np.random.default_rng(seed)
    dataset = made(seed=seed)
    owners = rng.integers(0, 4, len(dataset.train))
    rows, labels = np.array(dataset.train.inputs), np.array(dataset.train.labels)
    for client in range(1, 4):
        own = np.flatnonzero(owners == client)
        for column in range(rows.shape[1]):
            rows[own, column] = rows[rng.permutation(own), column]
        labels[own] = labels[rng.permutation(own)]
    changed = type(dataset.train)(rows, labels)
    assert isinstance(dataset.inputs, TableInputs)
    decoded = Decoded(dataset.task, changed, dataset.test, inputs=dataset.inputs)
    partition = dealt(owners, 4)
    before = fit_to_clients(dataset, partition, 0.0, seed=0)
    after = fit_to_clients(written(decoded), partition, 0.0, seed=0)
    # Whole numbers: their sums have no rounding, in any order; the squares' last bits may differ.
    assert after.inputs.to_tensor(changed.inputs[owners == 0]).numpy() == pytest.approx(
        before.inputs.to_tensor(dataset.train.inputs[owners == 0]).numpy(), abs=1e-6
    )
    assert isinstance(before.task, Regression)
    assert isinstance(after.task, Regression)
    assert after.task.center == before.task.center


def test_what_a_client_tells_are_the_declared_sums() -> None:
    dataset = made()
    told = first_sums(dataset, np.arange(10))
    assert set(vars(told)) == set(FirstSums.__dataclass_fields__)
    assert (told.examples, told.counts.shape, told.totals.shape) == (10, (2,), (2,))
    assert {place: counts.sum() for place, counts in told.categories.items()} == {2: 10}
    next_told = centered_sums(dataset, np.arange(10), np.zeros(2), 0.0)
    assert set(vars(next_told)) == set(CenteredSums.__dataclass_fields__)
    assert next_told.squares.shape == (2,)


CELLS = st.one_of(
    st.floats(allow_nan=True, allow_infinity=True).map(repr),
    st.integers(-(10**20), 10**20).map(str),
    st.dates().map(str),
    st.datetimes().map(str),
    st.sampled_from(["", "?", "NA", "yes", "no", "true", "7", "日本", "🙂", "a,b", 'q"q', "x\ny"]),
    st.text(max_size=6),
)
KINDS = st.sampled_from(["any", "number", "date", "constant", "blank", "category"])


def cells_of(kind: str, rows: int, draw: st.DrawFn) -> list[str]:
    if kind in ("constant", "blank"):
        return [draw(CELLS) if kind == "constant" else ""] * rows
    of_kind = {
        "any": CELLS,
        "number": st.one_of(st.just(""), st.floats(-1e300, 1e300).map(repr)),
        "date": st.one_of(st.just("?"), st.dates().map(str)),
        "category": st.sampled_from(["u", "v", "é", ""]),
    }[kind]
    return draw(st.lists(of_kind, min_size=rows, max_size=rows))


@st.composite
def tables(draw: st.DrawFn) -> list[list[str]]:
    rows = draw(st.integers(0, 25))
    names = draw(st.lists(st.text(max_size=8), min_size=1, max_size=5, unique=True))
    columns = [[name, *cells_of(draw(KINDS), rows, draw)] for name in names]
    return [list(row) for row in zip(*columns, strict=True)]


@given(tables(), st.integers(1, 6), st.booleans(), st.integers(0, 99))
@settings(deadline=None)
def test_any_table_runs_or_is_one_line(
    rows: list[list[str]], clients: int, has_group: bool, seed: int
) -> None:
    folder = Path(tempfile.mkdtemp())
    with (folder / "t.csv").open("w", newline="", encoding="utf-8", errors="replace") as file:
        csv.writer(file).writerows(rows)
    header = [name.strip() or "x" for name in rows[0]]
    options = TableOptions(
        target=header[-1], group=header[0] if has_group else None, test_fraction=0.3
    )
    try:
        dataset = written(decode_table(read_rows(folder / "t.csv"), options))
    except AtollError as error:
        assert str(error)
        assert "\n" not in str(error)
        return
    owners = np.random.default_rng(seed).integers(0, clients, len(dataset.train))
    fitted = fit_to_clients(dataset, dealt(owners, clients + 1), 0.2, seed)
    assert isinstance(fitted.inputs, TableInputs)
    for split in (fitted.train, fitted.test):
        tensor = fitted.inputs.to_tensor(split.inputs)
        assert tensor.shape == (len(split), *fitted.inputs.shape)
        assert bool(tensor.isfinite().all())
        assert bool(np.isfinite(split.labels).all())
        codes = tensor[:, fitted.inputs.number_width :].numpy()
        assert bool((codes < np.array(fitted.inputs.cardinalities, np.float32)).all())
