"""Data of a user's own: every form that a callable may return, and every way to get it wrong."""

from __future__ import annotations

import importlib
import io
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
import pytest
import torch
from PIL import Image
from torch.utils.data import TensorDataset

from atoll.clients import LoadedData, load_dataset
from atoll.clients.data.catalog.loading import check_options
from atoll.errors import DataUnavailableError, EngineError, InvalidExperimentError

RNG = np.random.default_rng(0)
IMAGES = RNG.integers(0, 256, (20, 6, 5, 3), np.uint8)
LABELS = np.arange(20) % 4

Loader = Callable[..., Any]


class Holder:
    """What the module that an experiment names returns."""

    value: Any = None


@pytest.fixture
def load(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Loader]:
    """Loads what it is given through a module of the user's."""
    monkeypatch.setenv("ATOLL_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    name = f"returning_{tmp_path.name.replace('-', '_')}"
    Path(f"{name}.py").write_text("value = None\ndef load():\n    return value\n")
    counter = iter(range(100))

    def loaded(value: Any) -> Any:
        # Another comment is another source: nothing comes from the cache.
        with Path(f"{name}.py").open("a") as file:
            file.write(f"# {next(counter)}\n")
        importlib.invalidate_caches()
        if str(tmp_path) not in sys.path:
            sys.path.append(str(tmp_path))
        importlib.import_module(name).value = value
        return load_dataset(f"{name}:load")

    yield loaded
    sys.path.remove(str(tmp_path))


class TorchImages(torch.utils.data.Dataset):
    classes = ("a", "b", "c", "d")

    def __len__(self) -> int:
        return len(IMAGES)

    def __getitem__(self, place: int) -> Any:
        return Image.fromarray(IMAGES[place]), int(LABELS[place])


def png(image: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(image).save(file, "png")
    return file.getvalue()


def table() -> pa.Table:
    return pa.table({"image": [png(image) for image in IMAGES], "label": LABELS})


def hugging_face() -> datasets.Dataset:
    features = datasets.Features(
        {"img": datasets.Image(), "label": datasets.ClassLabel(names=["a", "b", "c", "d"])}
    )
    rows = {"img": [Image.fromarray(image) for image in IMAGES], "label": LABELS.tolist()}
    return datasets.Dataset.from_dict(rows, features=features)


def tensors() -> TensorDataset:
    return TensorDataset(
        torch.from_numpy(IMAGES).permute(0, 3, 1, 2).float() / 255, torch.from_numpy(LABELS)
    )


def nested() -> pa.Table:
    return pa.table({"image": IMAGES.tolist(), "label": LABELS.tolist()})


def fixed_shape() -> pa.Table:
    flat = pa.FixedSizeListArray.from_arrays(pa.array(IMAGES.reshape(-1)), 6 * 5 * 3)
    kind = pa.fixed_shape_tensor(pa.uint8(), (6, 5, 3))
    return pa.table({"image": pa.ExtensionArray.from_storage(kind, flat), "label": LABELS})


FORMS: dict[str, Callable[[], Any]] = {
    "arrays": lambda: (IMAGES, LABELS),
    "floats": lambda: (IMAGES / 255, LABELS),
    "channels first": lambda: (np.ascontiguousarray(IMAGES.transpose(0, 3, 1, 2)), LABELS),
    "tensors": lambda: (
        torch.from_numpy(IMAGES).permute(0, 3, 1, 2),
        torch.from_numpy(LABELS),
    ),
    "columns": lambda: {"image": IMAGES, "label": LABELS},
    "images one by one": lambda: {
        "image": [Image.fromarray(image) for image in IMAGES],
        "label": LABELS.tolist(),
    },
    "a table of encoded images": table,
    "a table of lists": nested,
    "a table of tensors": fixed_shape,
    "torch, images": TorchImages,
    "torch, tensors": tensors,
    "hugging face": hugging_face,
    "names": lambda: (IMAGES, np.array(["a", "b", "c", "d"])[LABELS]),
    "a schema": lambda: LoadedData((IMAGES, LABELS), classes=["a", "b", "c", "d"]),
    "other columns": lambda: LoadedData(
        table().rename_columns(["picture", "kind"]), columns={"image": "picture", "label": "kind"}
    ),
}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_comes_to_the_same_examples(form: str, load: Loader) -> None:
    value = FORMS[form]()
    found = load(value if isinstance(value, LoadedData) else (value, value))
    if isinstance(value, LoadedData):
        both = np.concatenate([found.train.images, found.test.images])
        assert sorted(map(bytes, both)) == sorted(map(bytes, IMAGES))
        assert (len(found.train), len(found.test)) == (16, 4)
        return
    for split in (found.train, found.test):
        np.testing.assert_array_equal(split.images, IMAGES)
        np.testing.assert_array_equal(split.labels, LABELS)
    assert found.image_shape == (3, 6, 5)
    has_names = form in ("torch, images", "hugging face", "names")
    assert found.classes == (("a", "b", "c", "d") if has_names else ("0", "1", "2", "3"))


def test_other_columns_have_their_names_said(load: Loader) -> None:
    value = FORMS["other columns"]()
    found = load(value)
    assert len(found.train) + len(found.test) == 20
    with pytest.raises(InvalidExperimentError, match="no column 'pictur'"):
        load(LoadedData(value.train, columns={"image": "pictur", "label": "kind"}))


def test_grey_images_and_labels_that_begin_anywhere(load: Loader) -> None:
    found = load((IMAGES[..., 0], LABELS + 7))
    assert found.image_shape == (1, 6, 5)
    assert found.classes == ("7", "8", "9", "10")
    assert set(found.train.labels) <= {0, 1, 2, 3}


def test_domains_are_each_split_and_groups_are_not(load: Loader) -> None:
    domains = np.array(["photo", "sketch"])[np.arange(20) // 10]
    found = load({"image": IMAGES, "label": LABELS, "domain": domains})
    assert found.domains == ("photo", "sketch")
    assert np.bincount(found.test.domains).tolist() == [2, 2]
    grouped = load({"image": IMAGES, "label": LABELS, "group": np.arange(20) // 2})
    assert not set(grouped.train.groups) & set(grouped.test.groups)
    assert len(grouped.test) == 4


WRONG: dict[str, tuple[Any, str]] = {
    "nothing": (None, "returned None; expected (images, labels) arrays"),
    "a number": (3, "returned a int; expected"),
    "three parts": ((TorchImages(),) * 3, "a tuple of TorchImages, TorchImages, TorchImages"),
    "a flat array": ((IMAGES[0, 0, 0], LABELS), "images of shape (3,); expected (n, height"),
    "a label too many": ((np.zeros((4, 3)), [0] * 5), "returned columns that are no table"),
    "many channels": ((np.zeros((4, 9, 9, 7), np.uint8), [0] * 4), "expected 1 to 4 channels"),
    "normalised": ((IMAGES / 127.5 - 1, LABELS), "pixels from -1 to 1, of dtype float64"),
    "not a number": ((np.full((4, 5, 5), np.nan), [0] * 4), "expected 0 to 1"),
    "large": ((IMAGES.astype(np.int32) * 9, LABELS), "expected 0 to 255"),
    "fewer labels": ((IMAGES, LABELS[:5]), "20 images and 5 labels; expected as many"),
    "float labels": ((IMAGES, LABELS / 2), "labels of dtype float64; expected whole numbers"),
    "one-hot labels": ((IMAGES, np.eye(4)[LABELS]), "labels of shape (20, 4)"),
    "no labels": (pa.table({"image": [b""]}), "no column 'label' among image"),
    "broken image": (pa.table({"image": [b"x"], "label": [0]}), "bytes that cannot be read"),
    "few classes": (LoadedData((IMAGES, LABELS), classes=["a", "b"]), "the label 2, with 2 names"),
    "unknown name": (
        LoadedData((IMAGES, ["z"] * 20), classes=["a", "b"]),
        "the label 'z', with 2 names",
    ),
    "no examples": ((IMAGES[:0], LABELS[:0]), "no examples"),
    "two examples": ((IMAGES[:2], LABELS[:2]), "2 examples, of which a fifth is none"),
    "other sizes": (((IMAGES, LABELS), (IMAGES[:, :4], LABELS)), "training images of (6, 5, 3)"),
    "a domain in one": (
        ({"image": IMAGES, "label": LABELS, "domain": LABELS}, (IMAGES, LABELS)),
        "a column 'domain' in one of train and test only",
    ),
    "augmentation": (LoadedData((IMAGES, LABELS), augmentation="flip"), "augmentation = 'flip'"),
    "sizes differ": (
        {"image": [IMAGES[0], IMAGES[0, :3]], "label": [0, 1]},
        "expected one size",
    ),
}


@pytest.mark.parametrize("what", WRONG)
def test_what_is_wrong_is_one_line_that_says_what_was_expected(what: str, load: Loader) -> None:
    value, answer = WRONG[what]
    with pytest.raises(InvalidExperimentError) as error:
        load(value)
    text = str(error.value)
    assert answer in text
    assert text.startswith("data.dataset = 'returning_")
    assert "\n" not in text


def test_domains_that_the_ledger_cannot_tell_apart(load: Loader) -> None:
    domains = np.array(["a-b", "a_b"])[np.arange(20) % 2]
    with pytest.raises(DataUnavailableError, match="differ only by"):
        load({"image": IMAGES, "label": LABELS, "domain": domains})


MODULE = """
from pathlib import Path
import numpy as np
from beside_{tag} import CLASSES

def load(size: int, shade: int = 0, file: str = "", *, seed: int):
    with Path("calls.txt").open("a") as calls:
        calls.write(f"{{seed}} ")
    n = size
    images = np.full((n, 4, 4), shade, np.uint8)
    return images, np.arange(n) % CLASSES

def failing():
    return 1 / 0

NOT_CALLABLE = 3
"""


@pytest.fixture
def tag(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    monkeypatch.setenv("ATOLL_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    name = tmp_path.name.replace("-", "_")
    Path(f"mine_{name}.py").write_text(MODULE.format(tag=name))
    Path(f"beside_{name}.py").write_text("CLASSES = 2\n")
    yield name
    sys.path.remove(str(tmp_path))


def calls() -> int:
    path = Path("calls.txt")
    return len(path.read_text().split()) if path.exists() else 0


def forget(tag: str) -> None:
    for name in (f"mine_{tag}", f"beside_{tag}"):
        sys.modules.pop(name, None)
    importlib.invalidate_caches()


def test_the_cache_notices_code_options_files_and_seed(tag: str) -> None:
    name = f"mine_{tag}:load"
    options = {"size": 20, "file": "extra.csv"}
    Path("extra.csv").write_text("1")
    first = load_dataset(name, options=options)
    again = load_dataset(name, options=options)
    assert (calls(), again.directory) == (1, first.directory)
    # An option, the seed, a file that an option names, the module, and what it imports.
    load_dataset(name, options={**options, "shade": 5})
    load_dataset(name, options=options, seed=3)
    assert Path("calls.txt").read_text().split()[-1] == "3"
    Path("extra.csv").write_text("23")
    load_dataset(name, options=options)
    assert calls() == 4
    # A text that names a folder is a place, one that names a folder around this one is not.
    Path("shards").mkdir()
    for separator in ("/", ".", "..", "shards"):
        load_dataset(name, options={"size": 20, "file": separator})
    Path("shards/one.csv").write_text("1")
    Path("elsewhere.csv").write_text("1")
    for separator in ("/", ".", "..", "shards"):
        load_dataset(name, options={"size": 20, "file": separator})
    assert calls() == 9
    Path("calls.txt").write_text("0 " * 4)
    path = Path(f"mine_{tag}.py")
    path.write_text(path.read_text() + "\n# edited\n")
    forget(tag)
    load_dataset(name, options=options)
    assert calls() == 5
    Path(f"beside_{tag}.py").write_text("CLASSES = 4\n")
    forget(tag)
    assert len(load_dataset(name, options=options).classes) == 4
    assert calls() == 6


def test_options_are_checked_before_anything_is_called(tag: str) -> None:
    name = f"mine_{tag}:load"
    check_options(name, {"size": 3})
    cases = [
        (name, {"size": 3, "shad": 1}, "has no such argument; did you mean 'shade'?"),
        (name, {}, "data.options.size is not set"),
        (f"mine_{tag}:NOT_CALLABLE", {}, "is a int, expected a callable"),
        (f"mine_{tag}:missing", {}, "has no attribute 'missing'"),
        (f"missing_{tag}:load", {}, "cannot be imported"),
    ]
    for reference, options, answer in cases:
        with pytest.raises(InvalidExperimentError) as error:
            check_options(reference, options)
        assert answer in str(error.value)
    with pytest.raises(InvalidExperimentError, match="has no argument 'path'"):
        load_dataset(name, Path(), {"size": 3})
    assert calls() == 0


def test_an_error_in_it_names_its_place(tag: str) -> None:
    with pytest.raises(EngineError) as error:
        load_dataset(f"mine_{tag}:failing")
    assert "raised ZeroDivisionError" in str(error.value)
    assert f"mine_{tag}.py:" in str(error.value)
    assert "return 1 / 0" in str(error.value)
    assert not [name for name in os.listdir("cache") if name.startswith("load-")]
