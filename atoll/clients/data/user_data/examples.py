"""Columns of a user's examples, from whatever holds them: arrays, tables, data sets."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from atoll.clients.data.user_data.loaded_data import COLUMNS
from atoll.clients.data.user_data.pixels import (
    in_channels,
    is_tensor,
    pixels_of_array,
    pixels_of_image,
)
from atoll.errors import InvalidExperimentError

EXPECTED = (
    "expected (images, labels) arrays, a mapping of columns, a table, a torch or Hugging Face "
    "data set, a pair (train, test) of these, or LoadedData"
)
IMAGE = "image"


@dataclass
class Columns:
    """Columns of a split.

    Attributes
    ----------
    images : NDArray[uint8]
        Shape (n, height, width, channels).
    values : dict[str, NDArray]
        The other columns: numbers or texts, shape (n,).
    names : dict[str, tuple[str, ...]]
        Names of a column's numbers, where the source has them.
    """

    images: NDArray[np.uint8]
    values: dict[str, NDArray[Any]]
    names: dict[str, tuple[str, ...]] = field(default_factory=dict)


def is_split(source: Any) -> bool:
    """Tell whether something holds examples, as opposed to a pair of splits."""
    if isinstance(source, Mapping):
        return not {"train", "test"} & set(source)
    if isinstance(source, tuple | list):
        return len(source) > 1 and _is_array(source[0])
    return _is_table(source) or _is_hugging_face(source) or _is_torch(source)


def read_columns(source: Any, columns: Mapping[str, str], scratch: Path) -> Columns:
    """Return the columns of a split.

    Parameters
    ----------
    source : object
        What holds the examples.
    columns : Mapping[str, str]
        Names of columns where they are not Atoll's.
    scratch : Path
        A file for the images of what is read one by one: they may be more than memory holds.

    Raises
    ------
    InvalidExperimentError
        If it is nothing that examples can be read from, or lacks a column.
    """
    if isinstance(source, tuple | list) and is_split(source):
        source = dict(zip(COLUMNS, source, strict=False))
    if isinstance(source, Mapping):
        return _of_arrays(source, columns, scratch)
    if _is_hugging_face(source):
        return _of_hugging_face(source, columns, scratch)
    if _is_table(source):
        return _of_table(pa.table(source), columns, scratch)
    if _is_torch(source):
        return _of_torch(source, columns, scratch)
    raise InvalidExperimentError(f"a {type(source).__name__}; {EXPECTED}")


def _of_arrays(source: Mapping[str, Any], columns: Mapping[str, str], scratch: Path) -> Columns:
    found = _columns_in(list(source), columns)
    images = source[found.pop(IMAGE)]
    pixels = (
        pixels_of_array(images, channels_first=is_tensor(images))
        if _is_array(images)
        else _pixels(images, len(images), scratch)
    )
    return _checked(pixels, {name: _numbers(source[own]) for name, own in found.items()})


def _of_table(table: pa.Table, columns: Mapping[str, str], scratch: Path) -> Columns:
    found = _columns_in(table.column_names, columns)
    image = table.column(found.pop(IMAGE))
    values = {}
    for name, own in found.items():
        column = table.column(own)
        if pa.types.is_dictionary(column.type):
            column = pa.chunked_array(chunk.dictionary_decode() for chunk in column.chunks)
        if column.null_count:
            raise InvalidExperimentError(f"{column.null_count} nulls in the column {own!r}")
        values[name] = np.asarray(column.to_pylist())
    if isinstance(image.type, pa.FixedShapeTensorType):
        pixels = pixels_of_array(image.combine_chunks().to_numpy_ndarray())
    else:
        of_each = (value.as_py() for chunk in image.chunks for value in chunk)
        pixels = _pixels(map(_image_of_list, of_each), len(table), scratch)
    return _checked(pixels, values)


def _of_hugging_face(source: Any, columns: Mapping[str, str], scratch: Path) -> Columns:
    found = _columns_in(list(source.column_names), columns)
    image = found.pop(IMAGE)
    plain = source.with_format(None)
    values = {name: np.asarray(plain[own][:]) for name, own in found.items()}
    pixels = _pixels(
        (_image_of_list(row[image]) for row in plain.select_columns([image])), len(plain), scratch
    )
    names = {
        name: tuple(source.features[own].names)
        for name, own in found.items()
        if hasattr(source.features[own], "names")
    }
    return _checked(pixels, values, names)


def _of_torch(source: Any, columns: Mapping[str, str], scratch: Path) -> Columns:
    if len(source) == 0:
        raise InvalidExperimentError("a data set without examples")
    values: dict[str, list[Any]] = {}

    def images() -> Iterator[Any]:
        for place in range(len(source)):
            example = source[place]
            if isinstance(example, tuple | list):
                example = dict(zip(COLUMNS, example, strict=False))
            if not isinstance(example, Mapping):
                raise InvalidExperimentError(
                    f"examples that are of {type(example).__name__}; expected (image, label), or "
                    "a mapping of columns"
                )
            found = _columns_in(list(example), columns)
            for name, own in found.items():
                if name != IMAGE:
                    value = example[own]
                    # Of a tensor, the number.
                    values.setdefault(name, []).append(getattr(value, "item", lambda v=value: v)())
            yield example[found[IMAGE]]

    pixels = _pixels(images(), len(source), scratch)
    named = getattr(source, "classes", None)
    names = {"label": tuple(map(str, named))} if isinstance(named, list | tuple) else {}
    return _checked(pixels, {name: np.asarray(column) for name, column in values.items()}, names)


def _pixels(images: Iterable[Any], count: int, scratch: Path) -> NDArray[np.uint8]:
    """Return images that are read one by one, in a file."""
    each = map(pixels_of_image, images)
    first = next(each, None)
    if first is None:
        raise InvalidExperimentError("no examples; expected some")
    height, width, channels = first.shape
    with scratch.open("wb") as file:
        for place, image in enumerate(chain([first], each)):
            if channels == 1 and image.shape[-1] == 3:
                raise InvalidExperimentError(
                    f"grey and coloured images (image {place}); expected one kind: "
                    "image.convert('RGB'), say"
                )
            same = in_channels(image, channels)
            if same.shape != first.shape:
                raise InvalidExperimentError(
                    f"images of {first.shape[:2]} and of {image.shape[:2]} pixels (image {place}); "
                    "expected one size: resize them"
                )
            file.write(same.data)
    return np.memmap(scratch, np.uint8, "r", shape=(count, height, width, channels))


def _columns_in(names: Sequence[str], columns: Mapping[str, str]) -> dict[str, str]:
    """Return the source's names of the columns that it has, by Atoll's."""
    found = {}
    for name, usual in COLUMNS.items():
        own = columns.get(name)
        if own is not None and own not in names:
            raise InvalidExperimentError(
                f"no column {own!r} (for {name!r}); it has {', '.join(map(str, names))}"
            )
        own = own or next((candidate for candidate in usual if candidate in names), None)
        if own is not None:
            found[name] = own
    for needed in (IMAGE, "label"):
        if needed not in found:
            raise InvalidExperimentError(
                f"no column {needed!r} among {', '.join(map(str, names))}; expected it, or "
                f"LoadedData(columns={{{needed!r}: ...}}) to say which it is"
            )
    return found


def _checked(
    images: NDArray[np.uint8],
    values: dict[str, NDArray[Any]],
    names: dict[str, tuple[str, ...]] | None = None,
) -> Columns:
    for name, column in values.items():
        if column.ndim != 1:
            raise InvalidExperimentError(
                f"{name}s of shape {column.shape}; expected one a image, of shape ({len(images)},)"
            )
        if len(column) != len(images):
            raise InvalidExperimentError(
                f"{len(images)} images and {len(column)} {name}s; expected as many"
            )
        is_names = column.dtype.kind in "US" or all(isinstance(value, str) for value in column)
        if not is_names and column.dtype.kind not in "iub":
            raise InvalidExperimentError(
                f"{name}s of dtype {column.dtype}; expected whole numbers or names"
            )
    if len(images) == 0:
        raise InvalidExperimentError("no examples; expected some")
    return Columns(images, values, names or {})


def _numbers(values: Any) -> NDArray[Any]:
    return np.asarray(values)


def _image_of_list(value: Any) -> Any:
    """Return an image's nested lists of numbers as an array."""
    return np.asarray(value) if isinstance(value, list) else value


def _is_array(value: Any) -> bool:
    return isinstance(value, np.ndarray) or is_tensor(value)


def _is_table(value: Any) -> bool:
    return hasattr(value, "__arrow_c_stream__") and not _is_hugging_face(value)


def _is_hugging_face(value: Any) -> bool:
    return hasattr(value, "features") and hasattr(value, "select_columns")


def _is_torch(value: Any) -> bool:
    is_plain = isinstance(value, Mapping | Sequence | str | bytes) or _is_array(value)
    return not is_plain and hasattr(value, "__getitem__") and hasattr(value, "__len__")
