"""Texts of the user's own, from files and from Hugging Face data sets on disk."""

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet
import pytest

from atoll.clients import load_dataset, tokenizer_of
from atoll.clients.tasks.next_token import IGNORED
from atoll.errors import AtollError, InvalidExperimentError

ROWS = [
    {"text": f"{word} number {n}, ünd so on", "stars": n % 3, "author": f"author {n % 4}"}
    for n, word in enumerate(["good", "bad", "fair"] * 8)
]


def _written(path: Path) -> Path:
    table = pa.Table.from_pylist(ROWS)
    if path.suffix == ".csv":
        pyarrow.csv.write_csv(table, path)
    elif path.suffix == ".parquet":
        pyarrow.parquet.write_table(table, path)
    else:
        path.write_text("\n".join(json.dumps(row) for row in ROWS))
    return path


@pytest.mark.parametrize("name", ["reviews.csv", "reviews.jsonl", "reviews.parquet"])
def test_texts_are_read_from_a_file(tmp_path: Path, name: str) -> None:
    path = _written(tmp_path / name)
    options = {"target": "stars", "group": "author", "length": 12}
    dataset = load_dataset("text", path, options)
    assert dataset.classes == ("0", "1", "2")
    assert dataset.domains == tuple(f"author {n}" for n in range(4))
    assert len(dataset.train) + len(dataset.test) == len(ROWS)
    beginnings = {row["text"][:12]: row["stars"] for row in ROWS}
    tokenizer = tokenizer_of(dataset)
    for tokens, label in zip(dataset.train.inputs, dataset.train.labels, strict=True):
        assert beginnings[tokenizer.decode(tokens)] == label


def test_without_a_target_it_is_the_next_token(tmp_path: Path) -> None:
    path = _written(tmp_path / "texts.jsonl")
    dataset = load_dataset("text", path, {"length": 5, "group": "author"})
    assert dataset.task.kind == "next-token"
    targets = int((dataset.train.labels != IGNORED).sum() + (dataset.test.labels != IGNORED).sum())
    assert targets == sum(len(row["text"]) - 1 for row in ROWS)
    assert dataset.train.groups is not None
    assert set(dataset.train.groups.tolist()) == {0, 1, 2, 3}


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"text": "body"}, r"data.options.text = 'body': .* has no such column"),
        ({"text": "stars"}, r"data.options.text = 'stars': the column is of int64; expected text"),
        ({"target": "star"}, r"data.target = 'star': .* did you mean 'stars'"),
        ({"target": "author", "task": "regression"}, "expected numbers"),
        ({"tokenizer": "none.json"}, "data.options.tokenizer = 'none.json': cannot be read"),
    ],
)
def test_what_does_not_fit_is_one_line(tmp_path: Path, options, said: str) -> None:
    path = _written(tmp_path / "texts.jsonl")
    with pytest.raises(AtollError, match=said):
        load_dataset("text", path, options)


def test_a_path_is_asked_for() -> None:
    for name in ("text", "huggingface"):
        with pytest.raises(InvalidExperimentError, match="data.path is not set"):
            load_dataset(name)


def _saved(folder: Path, columns, features=None) -> Path:
    datasets = pytest.importorskip("datasets")
    made = datasets.Dataset.from_dict(columns, features=features)
    datasets.DatasetDict({"train": made, "test": made}).save_to_disk(str(folder))
    return folder


def test_a_saved_data_set_of_texts(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    columns = {"sentence": ["ab", "ba", "aa"], "label": [1, 0, 1]}
    features = datasets.Features(
        sentence=datasets.Value("string"), label=datasets.ClassLabel(names=["no", "yes"])
    )
    path = _saved(tmp_path / "saved", columns, features)
    dataset = load_dataset("huggingface", path, {"target": "label", "length": 3})
    assert dataset.classes == ("no", "yes")
    assert dataset.train.labels.tolist() == dataset.test.labels.tolist() == [1, 0, 1]
    assert dataset.train.inputs.tolist() == [[2, 3, 0], [3, 2, 0], [2, 2, 0]]


def test_a_saved_data_set_of_a_table(tmp_path: Path) -> None:
    path = _saved(tmp_path / "saved", {"x": [1.0, 2.5, 3.0], "y": [0, 1, 1]})
    dataset = load_dataset("huggingface", path, {"target": "y"})
    assert dataset.inputs.kind == "table"
    assert dataset.classes == ("0", "1")


def test_a_saved_data_set_of_images(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    pixels = [np.full((4, 4, 3), value, np.uint8) for value in (0, 128, 255)]
    features = datasets.Features(image=datasets.Image(), kind=datasets.Value("int64"))
    path = _saved(tmp_path / "saved", {"image": pixels, "kind": [0, 1, 1]}, features)
    dataset = load_dataset("huggingface", path, {"target": "kind"})
    assert dataset.image_shape == (3, 4, 4)
    assert dataset.train.labels.tolist() == [0, 1, 1]


def test_another_folder_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(AtollError, match="is no data set of save_to_disk"):
        load_dataset("huggingface", tmp_path)
