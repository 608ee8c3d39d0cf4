"""CIFAR-100 (Krizhevsky, 2009): the official binary version, fine labels."""

from __future__ import annotations

from pathlib import Path

from atoll.clients.data.datasets.cifar10 import read_records
from atoll.clients.data.files.dataset import Decoded
from atoll.errors import DataUnavailableError

CLASSES = 100


def decode_cifar100(folder: Path) -> Decoded:
    """Decode ``train.bin`` and ``test.bin`` found below ``folder``.

    A record is a coarse label, a fine label and 3072 bytes, channels first. The classes have the
    names of ``fine_label_names.txt``, or numbers where that is not there.

    Raises
    ------
    DataUnavailableError
        If a file is missing or is not of whole records.
    """
    train, test = (read_records(_find(folder, name), 2) for name in ("train.bin", "test.bin"))
    names = next(iter(sorted(folder.rglob("fine_label_names.txt"))), None)
    given = [] if names is None else names.read_text().split()
    classes = given if len(given) == CLASSES else [str(label) for label in range(CLASSES)]
    return Decoded(tuple(classes), train, test)


def _find(folder: Path, name: str) -> Path:
    for path in sorted(folder.rglob(name)):
        return path
    raise DataUnavailableError(
        f"{folder}: has no {name} in it; expected CIFAR-100's binary version"
    )
