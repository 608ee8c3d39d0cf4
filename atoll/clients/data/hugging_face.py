"""Hugging Face data sets saved on disk (``save_to_disk``): of images, of texts, of tables.

What it is of follows from its features: an image column, else a column of texts that is named or
the only one, else columns of a table.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa

from atoll.clients.data.files.cache import cache_root
from atoll.clients.data.files.dataset import Dataset, Decoded, write_dataset
from atoll.clients.data.tables.table_decoding import decode_table
from atoll.clients.data.tables.table_files import TableRows
from atoll.clients.data.tables.table_options import TableOptions
from atoll.clients.data.texts.text_decoding import decode_texts
from atoll.clients.data.texts.text_options import Name, TextOptions
from atoll.clients.data.user_data.loaded_data import LoadedData
from atoll.clients.data.user_data.loading import load_user_dataset
from atoll.errors import DataUnavailableError, InvalidExperimentError
from atoll.files.atomic import appearing
from atoll.files.manifests import sha256_of_file
from atoll.lazy import LazyModule

_datasets = LazyModule("datasets")
# Bump to forget data sets that older code has decoded otherwise.
FORMAT = 1
# What splits are called that are for test.
TEST_NAMES = ("test", "validation")


class HuggingFaceOptions(TextOptions):
    """Options of a Hugging Face data set on disk: those of texts.

    Attributes
    ----------
    text : str or None
        The column of texts; by default the only one, if there are no images.
    """

    text: Name | None = None  # type: ignore[assignment]


def load_saved(path: Path | None, options: HuggingFaceOptions, seed: int) -> Dataset:
    """Return a saved data set, from the cache if its files and options are the same.

    Raises
    ------
    AtollError
        If there is no path, it is no saved data set, or an option does not fit it.
    """
    if path is None:
        raise InvalidExperimentError(
            "data.path is not set; expected a folder of save_to_disk for data.dataset = "
            "'huggingface'"
        )
    splits = read_splits(path)
    features = splits["train"].features.values()
    if any(type(feature).__name__ == "Image" for feature in features):
        reference = f"{__name__}:saved_images"
        given = {"target": options.target, "group": options.group}
        return load_user_dataset(reference, path, given, seed)
    described = [str(FORMAT), options.model_dump_json(), *_hashes(path)]
    key = hashlib.sha256("\n".join(described).encode()).hexdigest()[:16]
    target = cache_root() / "datasets" / f"huggingface-{key}"
    if not (target / "dataset.json").exists():
        decoded = decode_saved(path, splits, options)
        with appearing(target) as folder:
            write_dataset(path.resolve().name, decoded, folder)
    return Dataset(target)


def decode_saved(path: Path, splits: Mapping[str, Any], options: HuggingFaceOptions) -> Decoded:
    """Decode a saved data set of texts, or of a table.

    Raises
    ------
    AtollError
        If an option does not fit it.
    """
    rows = {name: _rows(split, f"{path} ({name})") for name, split in splits.items()}
    column = options.text or _only_text(splits["train"].features, options)
    if column is None:
        return decode_table(rows["train"], _of_table(options), rows.get("test"))
    of_texts = TextOptions(**{**options.model_dump(), "text": column})
    return decode_texts(rows["train"], of_texts, rows.get("test"))


def read_splits(path: Path) -> Mapping[str, Any]:
    """Return the splits "train" and, where there is one for test, "test".

    Raises
    ------
    DataUnavailableError
        If the folder is no saved data set.
    """
    try:
        found = _datasets.load_from_disk(str(path))
    except (OSError, ValueError, KeyError, pa.ArrowException) as error:
        raise DataUnavailableError(
            f"data.path = {str(path)!r}: is no data set of save_to_disk "
            f"({' '.join(str(error).split())[:120]})"
        ) from error
    if not isinstance(found, Mapping):
        return {"train": found}
    if "train" not in found:
        raise DataUnavailableError(
            f"data.path = {str(path)!r}: has the splits {', '.join(found)}; expected 'train'"
        )
    test = next((found[name] for name in TEST_NAMES if name in found), None)
    return {"train": found["train"]} | ({} if test is None else {"test": test})


def saved_images(path: Path, target: str | None = None, group: str | None = None) -> LoadedData:
    """Return a saved data set of images."""
    splits = read_splits(path)
    named = {"label": target, "group": group}
    columns = {ours: theirs for ours, theirs in named.items() if theirs is not None}
    return LoadedData(splits["train"], splits.get("test"), columns=columns)


def _rows(split: Any, origin: str) -> TableRows:
    """Return a split's rows; numbers of classes become their names."""
    table: pa.Table = split.with_format("arrow")[:]
    for name, feature in split.features.items():
        if type(feature).__name__ == "ClassLabel":
            names = [
                None if number is None or number < 0 else feature.int2str(number)
                for number in table.column(name).to_pylist()
            ]
            place = table.column_names.index(name)
            table = table.set_column(place, name, pa.array(names, pa.string()))
    return TableRows(table, origin)


def _only_text(features: Mapping[str, Any], options: HuggingFaceOptions) -> str | None:
    texts = [
        name
        for name, feature in features.items()
        if getattr(feature, "dtype", None) in ("string", "large_string")
        and type(feature).__name__ == "Value"
        and name not in (options.target, options.group)
    ]
    return texts[0] if len(texts) == 1 else None


def _of_table(options: HuggingFaceOptions) -> TableOptions:
    if options.target is None:
        raise InvalidExperimentError("data.target is not set; expected the column to be predicted")
    shared = set(TableOptions.model_fields) & set(TextOptions.model_fields)
    return TableOptions(**{name: getattr(options, name) for name in shared})


def _hashes(path: Path) -> list[str]:
    files = [file for file in sorted(path.rglob("*")) if file.is_file()]
    return [f"{file.relative_to(path)} {sha256_of_file(file)}" for file in files]
