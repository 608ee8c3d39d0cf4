"""CIFAR-10 (Krizhevsky, 2009): the official binary batches, or the same images as PNG sheets."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from atoll.clients.data.files.dataset import Decoded, Split
from atoll.errors import DataUnavailableError
from atoll.files.reading import read_json

CLASSES = (
    "airplane",
    "automobile",
    "bird",
    "cat",
    "deer",
    "dog",
    "frog",
    "horse",
    "ship",
    "truck",
)
TRAIN = [f"data_batch_{number}" for number in range(1, 6)]


def decode_cifar10(folder: Path) -> Decoded:
    """Decode the five training batches and the test batch found below ``folder``.

    ``.bin`` files are the official binary version: a label byte and 3072 bytes a record, channels
    first. ``.png`` files are sheets of an image a row, with the labels in JSON beside them.
    """
    if any(folder.rglob("data_batch_1.bin")):
        train = _join([read_records(_find(folder, f"{name}.bin")) for name in TRAIN])
        return Decoded(CLASSES, train, read_records(_find(folder, "test_batch.bin")))
    images = np.concatenate([_read_sheet(_find(folder, f"{name}.png")) for name in TRAIN])
    train = Split(images, _read_labels(_find(folder, "train_lables.json")))
    test_images = _read_sheet(_find(folder, "test_batch.png"))
    return Decoded(
        CLASSES, train, Split(test_images, _read_labels(_find(folder, "test_lables.json")))
    )


def _find(folder: Path, name: str) -> Path:
    for path in sorted(folder.rglob(name)):
        return path
    raise DataUnavailableError(
        f"{folder}: has no {name} in it; expected CIFAR-10's binary version (data_batch_1.bin ...)"
    )


def _join(splits: list[Split]) -> Split:
    return Split(
        np.concatenate([split.images for split in splits]),
        np.concatenate([split.labels for split in splits]),
    )


def read_records(path: Path, label_bytes: int = 1) -> Split:
    """Read a file of the binary version: label bytes, of which the last is used, and 3072 pixels.

    Raises
    ------
    DataUnavailableError
        If the file does not hold whole records.
    """
    records, size = np.fromfile(path, np.uint8), label_bytes + 3072
    if records.size == 0 or records.size % size:
        raise DataUnavailableError(f"{path}: holds {records.size} bytes, not records of {size}")
    records = records.reshape(-1, size)
    images = records[:, label_bytes:].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
    labels = records[:, label_bytes - 1].astype(np.int64)
    return Split(np.ascontiguousarray(images), labels)


def _read_sheet(path: Path) -> NDArray[np.uint8]:
    # One image a row makes a sheet taller than Pillow's guard against decompression bombs likes.
    with Image.open(path) as sheet:
        pixels = np.asarray(sheet.convert("RGB"))
    return pixels.reshape(-1, 32, 32, 3)


def _read_labels(path: Path) -> NDArray[np.int64]:
    labels = read_json(path, list[int], error=DataUnavailableError)
    return np.asarray(labels, np.int64)
