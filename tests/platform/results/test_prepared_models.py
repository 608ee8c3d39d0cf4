"""Models of tables and texts: raw examples are predicted as the stored ones are."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import nn

import atoll
from atoll.clients import (
    Classification,
    DataSettings,
    ModelSettings,
    NextToken,
    Regression,
    TableInputs,
    TokenInputs,
    build_model,
)
from atoll.clients.data.catalog.loading import load_dataset
from atoll.clients.data.client_statistics import fitted
from atoll.clients.data.texts.tokenizers import tokenizer_of
from atoll.platform.results.exports.formats import (
    write_huggingface,
    write_safetensors,
    write_torch,
)
from atoll.platform.results.models.preparing import format_of, prepared
from atoll.platform.results.models.table_model import TableModel
from atoll.platform.results.models.token_model import TokenModel

pytestmark = pytest.mark.slow

LINES = ["age,ill,dose,seen,outcome"] + [
    f"{'' if row % 5 == 0 else 40 + row},{row % 3},{row * 0.25},2024-03-{1 + row % 28:02},"
    f"{'yes' if row % 2 else 'no'}"
    for row in range(60)
]


def _model(dataset: str, path: Path, options: dict) -> tuple:
    settings = DataSettings(dataset=dataset, path=path, clients=3, options=options)
    loaded = load_dataset(dataset, path, settings.dataset_options, 0)
    data = fitted(loaded, settings, 0)
    name = "table-mlp" if dataset == "table" else "gru"
    network = build_model(ModelSettings(name=name), data.inputs, data.task, 0)
    model = prepared(network, format_of(data.inputs, data.task), lambda: tokenizer_of(data))
    return model, data


@pytest.fixture
def table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple:
    monkeypatch.setenv("ATOLL_CACHE", str(tmp_path / "cache"))
    path = tmp_path / "patients.csv"
    path.write_text("\n".join(LINES))
    return _model("table", path, {"target": "outcome", "categories": ["ill"]})


@pytest.fixture
def texts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple:
    monkeypatch.setenv("ATOLL_CACHE", str(tmp_path / "cache"))
    path = tmp_path / "texts.jsonl"
    rows = [{"text": f"a {'good' if n % 2 else 'bad'} thing {n}", "y": n % 2} for n in range(40)]
    path.write_text("\n".join(map(json.dumps, rows)))
    return _model("text", path, {"target": "y", "length": 24})


def _raw_rows(data: object) -> list[dict]:
    """The test rows as they stand in the file, found by the dose, which no two rows share."""
    names = LINES[0].split(",")
    rows = [dict(zip(names, line.split(","), strict=True)) for line in LINES[1:]]
    by_dose = {float(row["dose"]): row for row in rows}
    place = [column.name for column in data.inputs.columns].index("dose")
    return [by_dose[dose] for dose in data.test.inputs[:, place]]


def test_raw_rows_are_predicted_as_the_stored_rows_are(table: tuple) -> None:
    model, data = table
    # The path of evaluate: the data set's own tensors, given to the network alone.
    with torch.no_grad():
        expected = model.network(data.inputs.to_tensor(data.test.inputs))
    rows = _raw_rows(data)
    typed = pa.table(
        {
            "outcome": [row["outcome"] for row in rows],
            "dose": [float(row["dose"]) for row in rows],
            "ill": [float(row["ill"]) for row in rows],
            "age": [int(row["age"]) if row["age"] else None for row in rows],
            "seen": pa.array([row["seen"] for row in rows]).cast(pa.date32()),
        }
    )
    forms = {
        "stored rows": data.test,
        "tensor": torch.from_numpy(data.test.inputs.copy()),
        "texts of the file": rows,
        "arrow": typed,
        "pandas": typed.to_pandas(),
        "dict of lists": typed.to_pydict(),
    }
    for name, examples in forms.items():
        found = model.predict(examples)
        assert torch.equal(found.outputs, expected), name
    assert found.names == [data.task.classes[label] for label in found.labels]
    assert found.probabilities.sum(1) == pytest.approx(1, abs=1e-6)
    assert torch.equal(model.predict(rows[3]).outputs, model.predict(rows[3:4]).outputs)
    assert len(model.predict([])) == 0


def test_an_unseen_category_is_0_and_a_missing_number_is_flagged(table: tuple) -> None:
    _, data = table
    model = TableModel(nn.Identity(), data.inputs, data.task)
    row = {"age": None, "ill": "9", "dose": 1.0, "seen": "2024-03-05"}
    given = model(model.tensor_of([row, row | {"ill": "2", "age": 41}]))
    width, ages = data.inputs.number_width, data.inputs.columns[0]
    assert given[:, 0].tolist() == pytest.approx([0.0, (41 - ages.mean) / ages.std])
    assert given[:, width - 1].tolist() == [1.0, 0.0]
    assert given[:, -1].tolist() == [0.0, 3.0]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"age": "old"}, "the column 'age' has 'old' (row 1); expected numbers, or dates"),
        ({"dose": [1.0]}, "the column 'dose' is of list<item: double>; expected number cells"),
        ({"dose": True}, "the column 'dose'"),
        ({"ill": None, "age": object()}, "the column 'age': "),
    ],
)
def test_a_wrong_type_is_one_line(table: tuple, change: dict, message: str) -> None:
    row = {"age": 50, "ill": 1, "dose": 1.0, "seen": "2024-03-05"}
    with pytest.raises(atoll.DataUnavailableError) as caught:
        table[0].predict([row | change])
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_missing_column_and_other_examples_are_one_line(table: tuple, texts: tuple) -> None:
    with pytest.raises(atoll.DataUnavailableError, match="row 1 of the examples: has no column"):
        table[0].predict([{"age": 3}])
    with pytest.raises(atoll.DataUnavailableError, match="has no column 'ill', which the model"):
        table[0].predict({"age": [3], "dose": [1.0], "seen": ["2024-03-05"]})
    with pytest.raises(atoll.DataUnavailableError, match=r"have the shape \(2, 3\); expected"):
        table[0].predict(np.zeros((2, 3)))
    with pytest.raises(atoll.DataUnavailableError, match="type str, which is no table"):
        table[0].predict("a file")
    with pytest.raises(atoll.DataUnavailableError, match="expected texts"):
        texts[0].predict([1.5])
    with pytest.raises(atoll.DataUnavailableError, match="tokens from 0 to 999; expected 0 to"):
        texts[0].predict(np.array([[0] * 23 + [999]]))
    with pytest.raises(atoll.DataUnavailableError, match="expected classification of rows"):
        table[0].check_dataset(texts[1])


def test_texts_are_predicted_as_their_tokens_are(texts: tuple) -> None:
    model, data = texts
    with torch.no_grad():
        expected = model.network(data.inputs.to_tensor(data.test.inputs))
    tokenizer = tokenizer_of(data)
    raw = [tokenizer.decode(tokens) for tokens in data.test.inputs]
    assert torch.equal(model.predict(raw).outputs, expected)
    assert torch.equal(model.predict(data.test).outputs, expected)
    assert model.predict(raw).names == [data.task.classes[k] for k in expected.argmax(1)]


def test_predictions_are_those_of_the_task() -> None:
    tokens = TokenInputs(length=3, vocabulary=5)
    task = NextToken(vocabulary=5, length=3)
    found = TokenModel(nn.Embedding.from_pretrained(torch.eye(5)), tokens, task).predict(
        np.array([[4, 2, 0]])
    )
    assert found.tokens.tolist() == [[4, 2, 0]]
    with pytest.raises(AttributeError, match="task is 'next-token'; expected 'regression'"):
        _ = found.values
    number = atoll.Predictions(Regression(center=10.0, scale=2.0), torch.tensor([[1.0]]))
    assert number.values.tolist() == [12.0]
    sigmoid = atoll.Predictions(Classification(classes=("no", "yes")), torch.tensor([[0.0]]))
    assert sigmoid.probabilities.tolist() == [[0.5, 0.5]]


@pytest.mark.parametrize("kind", ["table", "texts"])
def test_exports_give_the_outputs_again(
    kind: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    model, data = request.getfixturevalue(kind)
    about = {
        "inputs": model.data_inputs.model_dump(mode="json"),
        "task": model.task.model_dump(mode="json"),
        **model.described(),
    }
    given = model.tensor_of(data.test)
    expected = model.predict(data.test).outputs
    write_torch(model, about, tmp_path / "m.pt2")
    extra = {"atoll.json": "", "tokenizer.json": ""} if kind == "texts" else {"atoll.json": ""}
    program = torch.export.load(tmp_path / "m.pt2", extra_files=extra).module()
    assert json.loads(extra["atoll.json"]) == about
    for count in (1, 3, len(given)):
        assert torch.allclose(program(given[:count]), expected[:count], atol=1e-6)

    write_safetensors(model, about, tmp_path / "m.safetensors")
    with safe_open(tmp_path / "m.safetensors", "pt") as file:
        said = file.metadata()
    schema = TableInputs if kind == "table" else TokenInputs
    inputs = schema.model_validate_json(said["inputs"])
    task = Classification.model_validate_json(said["task"])
    name = "table-mlp" if kind == "table" else "gru"
    network = build_model(ModelSettings(name=name), inputs, task, 1)
    tensors = load_file(tmp_path / "m.safetensors")
    network.load_state_dict({k: v for k, v in tensors.items() if "preprocessing." not in k})
    again = prepared(network, format_of(inputs, task), lambda: None)
    assert torch.equal(again.predict(data.test).outputs, expected)
    assert ("tokenizer.json" in said) == (kind == "texts")
    if kind == "table":
        assert tensors["preprocessing.mean"].tolist() == [
            column.mean for column in inputs.columns if column.kind == "number"
        ]
        with pytest.raises(atoll.InvalidExperimentError, match="expected a classification of im"):
            write_huggingface(model, about, tmp_path / "hub")
