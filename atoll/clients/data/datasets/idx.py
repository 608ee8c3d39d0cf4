"""MNIST and its drop-in replacements: four files in the idx format, plain or gzipped."""

from __future__ import annotations

import gzip
import zlib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from atoll.clients.data.files.dataset import Decoded, Split
from atoll.errors import DataUnavailableError

DIGITS = tuple("0123456789")
GARMENTS = (
    "T-shirt/top",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
)


def decode_mnist(folder: Path) -> Decoded:
    """Decode the idx files anywhere below ``folder`` as handwritten digits."""
    return _decode(folder, DIGITS)


def decode_fashion_mnist(folder: Path) -> Decoded:
    """Decode the idx files anywhere below ``folder`` as garments."""
    return _decode(folder, GARMENTS)


def _decode(folder: Path, classes: tuple[str, ...]) -> Decoded:
    splits = []
    for prefix in ("train", "t10k"):
        images = read_idx(_find(folder, f"{prefix}-images", "idx3-ubyte"))
        labels = read_idx(_find(folder, f"{prefix}-labels", "idx1-ubyte"))
        splits.append(Split(images[..., None], labels.astype(np.int64)))
    train, test = splits
    return Decoded(classes, train, test)


def _find(folder: Path, stem: str, kind: str) -> Path:
    for separator in "-.":
        for suffix in ("", ".gz"):
            for path in sorted(folder.rglob(f"{stem}{separator}{kind}{suffix}")):
                return path
    raise DataUnavailableError(f"{folder}: has no {stem}-{kind} (or {stem}-{kind}.gz) in it")


def read_idx(path: Path) -> NDArray[np.uint8]:
    """Return the array in an idx file of unsigned bytes.

    Raises
    ------
    DataUnavailableError
        If the file is not of that format, or is cut short.
    """
    try:
        data = path.read_bytes()
        if path.suffix == ".gz":
            data = gzip.decompress(data)
    except (OSError, EOFError, zlib.error) as error:
        raise DataUnavailableError(f"{path}: cannot be read ({error})") from error
    if len(data) < 4 or data[:3] != b"\0\0\x08":
        raise DataUnavailableError(f"{path}: is not an idx file of unsigned bytes")
    dimensions = data[3]
    if len(data) < 4 + 4 * dimensions:
        raise DataUnavailableError(f"{path}: ends within its header")
    shape = tuple(np.frombuffer(data, ">u4", dimensions, 4).tolist())
    values = np.frombuffer(data, np.uint8, offset=4 + 4 * dimensions)
    if values.size != np.prod(shape):
        raise DataUnavailableError(f"{path}: holds {values.size} values, expected {np.prod(shape)}")
    return values.reshape(shape)
