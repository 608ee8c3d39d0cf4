"""Tables of a user's callable, in every form, and the mistakes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from atoll.clients import LoadedData
from atoll.clients.data.files.dataset import Decoded
from atoll.clients.data.inputs.table import TableInputs
from atoll.clients.data.user_data.own_tables import decode_own_table, is_table
from atoll.clients.tasks.classification import Classification
from atoll.clients.tasks.regression import Regression
from atoll.errors import AtollError

RNG = np.random.default_rng(0)
COLUMNS = {
    "age": RNG.normal(50, 9, 40),
    "sex": RNG.choice(["f", "m"], 40),
    "group": np.arange(40) % 4,
    "label": np.arange(40) % 2,
}
FORMS: dict[str, Any] = {
    "mapping": COLUMNS,
    "arrow": pa.table(COLUMNS),
    "pandas": pd.DataFrame(COLUMNS),
}


def names_of(decoded: Decoded) -> list[str]:
    assert isinstance(decoded.inputs, TableInputs)
    return [column.name for column in decoded.inputs.columns]


@pytest.mark.parametrize("form", FORMS)
def test_every_form_is_the_same_table(form: str) -> None:
    data = LoadedData(train=FORMS[form])
    assert is_table(data)
    decoded = decode_own_table(data, seed=0)
    assert names_of(decoded) == ["age", "sex"]
    assert decoded.task == Classification(classes=("0", "1"))
    assert decoded.domains == ("0", "1", "2", "3")
    expected = decode_own_table(LoadedData(train=COLUMNS), seed=0)
    assert np.array_equal(decoded.train.inputs, expected.train.inputs)


def test_arrays_of_features_are_a_table() -> None:
    features = RNG.normal(size=(30, 3)).astype(np.float32)
    data = LoadedData(train=(features, features.sum(1)))
    assert is_table(data)
    decoded = decode_own_table(data, seed=0)
    assert names_of(decoded) == ["x0", "x1", "x2"]
    assert isinstance(decoded.task, Regression)
    assert not is_table(LoadedData(train=(np.zeros((30, 8, 8)), np.arange(30))))


def test_what_they_are_can_be_said() -> None:
    data = LoadedData(
        train=COLUMNS,
        test=pa.table(COLUMNS).slice(0, 3),
        target="age",
        group="sex",
        categories=["label"],
        loss="huber",
    )
    decoded = decode_own_table(data, seed=0)
    assert decoded.task == Regression(loss="huber")
    assert (len(decoded.train), len(decoded.test)) == (40, 3)
    assert decoded.domains == ("f", "m")
    assert names_of(decoded) == ["group", "label"]
    named = decode_own_table(LoadedData(train=COLUMNS, classes=["no", "yes"]), seed=0)
    assert named.task == Classification(classes=("no", "yes"))


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (LoadedData(train={"age": [1, 2], "sex": ["f", "m"]}), "expected a column 'label'"),
        (LoadedData(train=COLUMNS, target="agee"), "did you mean 'age'?"),
        (LoadedData(train=COLUMNS, classes=["a", "b", "c"]), "3 names of classes"),
        (LoadedData(train=COLUMNS, domains=["a"]), "expected none"),
        (LoadedData(train={"a": [1], "label": [1, 2]}, target="a"), "columns that are no table"),
        (LoadedData(train=object(), target="a"), "expected a table"),
        (LoadedData(train={"a": [], "label": []}), "no rows"),
    ],
)
def test_a_mistake_is_one_line(data: LoadedData, expected: str) -> None:
    assert is_table(data)
    with pytest.raises(AtollError) as caught:
        decode_own_table(data, seed=0)
    assert expected in str(caught.value)
    assert "\n" not in str(caught.value)
