"""Emoji drawn by four vendors: four styles of the same things, as domains.

The class is the emoji's category, the domain its vendor. The same emoji stands in every domain,
so examples are split by emoji: none of the test emoji is drawn by anyone in the training set.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from atoll.clients.data.files.dataset import Decoded, Split
from atoll.errors import DataUnavailableError
from atoll.files.reading import read_json

VENDORS = ("apple", "google", "twitter", "facebook")
CELL, SIZE = 34, 32
TEST_FRACTION = 0.2
SMALLEST_CATEGORY = 20


def decode_emoji(folder: Path) -> Decoded:
    """Decode ``emoji.json`` and the four ``img/VENDOR/sheets/32.png`` below ``folder``.

    Emoji that a vendor does not draw are left out, and so are categories of a handful.

    Raises
    ------
    DataUnavailableError
        If a file is missing or broken.
    """
    described = _find(folder, "emoji.json")
    try:
        return _decode(described)
    except (OSError, ValueError, KeyError, TypeError, SyntaxError) as error:
        raise DataUnavailableError(
            f"{described.parent}: is not emoji-datasource ({type(error).__name__}: {error})"
        ) from error


def _decode(described: Path) -> Decoded:
    found = read_json(described, list[dict[str, Any]], error=DataUnavailableError)
    emoji = [e for e in found if _is_complete(e)]
    names = [e["category"] for e in emoji]
    classes = tuple(sorted(n for n in set(names) if names.count(n) >= SMALLEST_CATEGORY))
    emoji = [e for e in emoji if e["category"] in classes]
    sheets = {vendor: _sheet(described.parent, vendor) for vendor in VENDORS}
    is_test = np.array([_is_test(e["unified"]) for e in emoji])
    numbers = np.arange(len(emoji))
    train, test = (_draw(emoji, numbers[chosen], classes, sheets) for chosen in (~is_test, is_test))
    return Decoded(classes, train, test, VENDORS)


def _find(folder: Path, name: str) -> Path:
    for path in sorted(folder.rglob(name), key=lambda p: len(p.parts)):
        return path
    raise DataUnavailableError(f"{folder}: has no {name} in it; expected emoji-datasource")


def _is_complete(emoji: dict[str, Any]) -> bool:
    return all(emoji[f"has_img_{vendor}"] for vendor in VENDORS)


def _is_test(code: str) -> bool:
    return hashlib.sha256(code.encode()).digest()[0] < TEST_FRACTION * 256


def _sheet(root: Path, vendor: str) -> NDArray[np.uint8]:
    path = _find(root / "img" / vendor, "32.png")
    with Image.open(path) as image:
        pixels = image.convert("RGBA")
    white = Image.new("RGBA", pixels.size, "white")
    return np.asarray(Image.alpha_composite(white, pixels).convert("RGB"))


def _draw(
    emoji: list[dict[str, Any]],
    numbers: NDArray[np.int64],
    classes: tuple[str, ...],
    sheets: dict[str, NDArray[np.uint8]],
) -> Split:
    images = []
    for vendor in VENDORS:
        for number in numbers:
            left = CELL * emoji[number]["sheet_x"] + 1
            top = CELL * emoji[number]["sheet_y"] + 1
            images.append(sheets[vendor][top : top + SIZE, left : left + SIZE])
    labels = np.array([classes.index(emoji[number]["category"]) for number in numbers], np.int64)
    return Split(
        inputs=np.stack(images),
        labels=np.tile(labels, len(VENDORS)),
        domains=np.repeat(np.arange(len(VENDORS)), len(numbers)),
        groups=np.tile(numbers, len(VENDORS)),
    )
