"""Image data sets on disk: Arrow files, memory-mapped, shared by all processes of a machine.

A data set is decoded once into one Arrow IPC file a split. Opening it maps the file: images,
labels and domains are NumPy views of the mapping, and pickling a data set sends its folder only.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, TypeVar

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from atoll.clients.ranges import Pixels
from atoll.errors import DataUnavailableError
from atoll.files.reading import read_json

SPLITS = ("train", "test")
# Pixel values counted at once: NumPy makes eight bytes of each.
STATISTICS_VALUES = 2**22

Number = TypeVar("Number", np.int64, np.float32)


@dataclass(frozen=True)
class Split:
    """Examples of a data set.

    Attributes
    ----------
    images : NDArray[uint8]
        Shape (n, height, width, channels), read-only.
    labels : NDArray[int64]
        Shape (n,), in 0 .. classes - 1.
    domains : NDArray[int64] or None
        Shape (n,), an index into the data set's ``domains``.
    groups : NDArray[int64] or None
        Shape (n,): examples of one group show the same thing and never lie on both sides of a
        split.
    aspects : NDArray[float32] or None
        Shape (n,): width by height of what the square images were made from, if not square.

    Examples
    --------
    >>> from atoll.clients import load_dataset
    >>> split = load_dataset("digits").train
    >>> split.images.shape, split.images.dtype, split.labels[:5].tolist()
    ((1437, 8, 8, 1), dtype('uint8'), [1, 2, 3, 4, 6])
    """

    images: NDArray[np.uint8]
    labels: NDArray[np.int64]
    domains: NDArray[np.int64] | None = None
    groups: NDArray[np.int64] | None = None
    aspects: NDArray[np.float32] | None = None

    def __len__(self) -> int:
        return len(self.labels)

    def sha256(self) -> str:
        """Return a hash of the contents."""
        digest = hashlib.sha256(str(self.images.shape).encode())
        for column in (self.images, self.labels, self.domains, self.groups, self.aspects):
            if column is not None:
                digest.update(np.ascontiguousarray(column).data)
        return digest.hexdigest()


@dataclass(frozen=True)
class Decoded:
    """A data set as its decoder returns it, before it is written to the cache.

    Attributes
    ----------
    classes, domains : tuple[str, ...]
        Names of the labels and of the domains. A domain may have test examples only.
    train, test : Split
        The examples.
    normalization : tuple of two sequences, or None
        Mean and standard deviation per channel, in units of [0, 1], by which a model's input is
        normalised; None takes those of the training images.
    augmentation : str
        A name in :data:`~atoll.clients.data.augmentation.AUGMENTATIONS`.
    """

    classes: tuple[str, ...]
    train: Split
    test: Split
    domains: tuple[str, ...] = ()
    normalization: tuple[Sequence[float], Sequence[float]] | None = None
    augmentation: str = "none"


class _About(BaseModel):
    """``dataset.json``."""

    model_config = ConfigDict(extra="ignore", strict=True)

    name: str
    classes: list[str]
    domains: list[str]
    mean: list[float]
    std: list[float]
    augmentation: str = "none"
    fingerprint: str
    shape: Annotated[list[Pixels], Field(min_length=3, max_length=3)]


class ImageDataset:
    """A data set in the cache, memory-mapped.

    Parameters
    ----------
    directory : Path
        Its folder, as :func:`write_dataset` made it.

    Attributes
    ----------
    name : str
        The data set's name.
    classes, domains : tuple[str, ...]
        Names of the labels and of the domains (empty if it has none).
    mean, std : tuple[float, ...]
        Per channel, in units of [0, 1]: what a model's input is normalised by.
    augmentation : str
        How training images are varied: "none", or a name in
        :data:`~atoll.clients.data.augmentation.AUGMENTATIONS`.
    train, test : Split
        The examples.
    fingerprint : str
        A SHA-256 of the contents.

    Raises
    ------
    DataUnavailableError
        If the folder is not a data set.

    Examples
    --------
    >>> from atoll.clients import load_dataset
    >>> dataset = load_dataset("rotated-digits")
    >>> dataset.domains, len(dataset.classes), dataset.image_shape
    (('0', '15', '30', '45', '60', '75'), 10, (1, 8, 8))
    >>> len(dataset.train), len(dataset.test)
    (1437, 360)
    """

    def __init__(self, directory: Path) -> None:
        self.directory = Path(directory)
        about = read_json(self.directory / "dataset.json", _About, error=DataUnavailableError)
        self.name = about.name
        self.classes = tuple(about.classes)
        self.domains = tuple(about.domains)
        self.mean = tuple(about.mean)
        self.std = tuple(about.std)
        self.augmentation = about.augmentation
        self.fingerprint = about.fingerprint
        height, width, channels = about.shape
        self._shape = height, width, channels
        self.train = _map_split(self.directory / "train.arrow", self._shape)
        self.test = _map_split(self.directory / "test.arrow", self._shape)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Channels, height and width of the images as a model sees them."""
        height, width, channels = self._shape
        return channels, height, width

    def __reduce__(self) -> tuple[Any, ...]:
        return ImageDataset, (self.directory,)


def write_dataset(name: str, decoded: Decoded, folder: Path) -> None:
    """Write a decoded data set into ``folder``, for :class:`ImageDataset` to open."""
    for split_name in SPLITS:
        _write_split(folder / f"{split_name}.arrow", getattr(decoded, split_name))
    mean, std = decoded.normalization or channel_statistics(decoded.train.images)
    about = {
        "name": name,
        "classes": decoded.classes,
        "domains": decoded.domains,
        "shape": decoded.train.images.shape[1:],
        "mean": list(mean),
        "std": list(std),
        "augmentation": decoded.augmentation,
        "fingerprint": fingerprint_of(decoded),
    }
    (folder / "dataset.json").write_text(json.dumps(about, indent=1))


def channel_statistics(images: NDArray[np.uint8]) -> tuple[list[float], list[float]]:
    """Return mean and standard deviation per channel, in units of [0, 1].

    They are computed from counts of the 256 values, so data sets larger than memory will do.
    """
    channels = images.shape[-1]
    counts = np.zeros((channels, 256), np.int64)
    at_once = max(1, STATISTICS_VALUES // int(np.prod(images.shape[1:])))
    for start in range(0, len(images), at_once):
        rows = images[start : start + at_once].reshape(-1, channels)
        for channel in range(channels):
            counts[channel] += np.bincount(rows[:, channel], minlength=256)
    values = np.arange(256) / 255
    total = np.maximum(counts.sum(axis=1), 1)
    mean = counts @ values / total
    variance = (counts * (values - mean[:, None]) ** 2).sum(axis=1) / total
    return mean.tolist(), np.sqrt(variance).tolist()


def fingerprint_of(decoded: Decoded) -> str:
    """Return the SHA-256 of a data set's decoded contents, the same for any source."""
    parts = decoded.train.sha256() + decoded.test.sha256()
    return hashlib.sha256(parts.encode()).hexdigest()


def _write_split(path: Path, split: Split) -> None:
    images = np.ascontiguousarray(split.images)
    size = int(np.prod(images.shape[1:]))
    pixels = pa.FixedSizeBinaryArray.from_buffers(
        pa.binary(size), len(images), [None, pa.py_buffer(images)]
    )
    columns = {"image": pixels, "label": pa.array(split.labels)}
    if split.domains is not None:
        columns["domain"] = pa.array(split.domains)
    if split.groups is not None:
        columns["group"] = pa.array(split.groups)
    if split.aspects is not None:
        columns["aspect"] = pa.array(split.aspects)
    batch = pa.record_batch(columns)
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, batch.schema) as writer:
        writer.write_batch(batch)


def _map_split(path: Path, shape: tuple[int, int, int]) -> Split:
    try:
        batch = pa.ipc.open_file(pa.memory_map(str(path))).get_batch(0)
    except (OSError, pa.ArrowException) as error:
        raise DataUnavailableError(f"{path}: cannot be read ({error})") from error
    pixels = np.frombuffer(batch.column("image").buffers()[1], np.uint8)
    names = batch.schema.names
    return Split(
        images=pixels[: batch.num_rows * int(np.prod(shape))].reshape(-1, *shape),
        labels=_numbers(batch.column("label"), np.int64),
        domains=_numbers(batch.column("domain"), np.int64) if "domain" in names else None,
        groups=_numbers(batch.column("group"), np.int64) if "group" in names else None,
        aspects=_numbers(batch.column("aspect"), np.float32) if "aspect" in names else None,
    )


def _numbers(column: pa.Array, kind: type[Number]) -> NDArray[Number]:
    # pa.Array.to_numpy would import pandas, in every worker too.
    return np.frombuffer(column.buffers()[1], kind)[: len(column)]
