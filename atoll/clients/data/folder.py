"""Image folders ``domain/class/*.png|jpg`` (or ``class/*.png|jpg``): PACS and the user's own."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np

from atoll.clients.data.store import Decoded, Split
from atoll.errors import DataUnavailableError

SUFFIXES = {".png", ".jpg", ".jpeg"}
TEST_FRACTION = 0.2
DEFAULT_SIZE = 64


def decode_folder(folder: Path, size: int = DEFAULT_SIZE) -> Decoded:
    """Decode an image folder; images are resized to ``size`` x ``size`` RGB.

    A fifth of the images, chosen by the hash of their path, are test examples.

    Raises
    ------
    DataUnavailableError
        If there are no images two or three levels down, or the domains' classes differ.
    """
    files = sorted(p for p in folder.rglob("*") if p.suffix.lower() in SUFFIXES)
    parts = [p.relative_to(folder).parts for p in files]
    depths = {len(p) for p in parts}
    if depths not in ({2}, {3}):
        raise DataUnavailableError(
            f"{folder}: expected images as domain/class/*.png|jpg or class/*.png|jpg, found "
            f"{len(files)} images"
        )
    has_domains = depths == {3}
    domains = tuple(sorted({p[0] for p in parts})) if has_domains else ()
    classes = tuple(sorted({p[-2] for p in parts}))
    _check_classes(folder, parts, domains, classes)
    images = np.stack([_read(path, size) for path in files])
    labels = np.array([classes.index(p[-2]) for p in parts], np.int64)
    which = np.array([domains.index(p[0]) for p in parts], np.int64) if has_domains else None
    is_test = np.array([_is_test("/".join(p)) for p in parts])
    train, test = (
        Split(images[chosen], labels[chosen], None if which is None else which[chosen])
        for chosen in (~is_test, is_test)
    )
    return Decoded(classes, train, test, domains)


def _check_classes(
    folder: Path,
    parts: list[tuple[str, ...]],
    domains: tuple[str, ...],
    classes: tuple[str, ...],
) -> None:
    for domain in domains:
        missing = set(classes) - {p[-2] for p in parts if p[0] == domain}
        if missing:
            raise DataUnavailableError(
                f"{folder / domain}: has no images of class {sorted(missing)[0]!r}, which another "
                "domain has; expected the same classes in every domain"
            )


def _read(path: Path, size: int) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(path) as image:
            return np.asarray(image.convert("RGB").resize((size, size), Image.Resampling.BILINEAR))
    except (OSError, UnidentifiedImageError) as error:
        raise DataUnavailableError(f"{path}: cannot be read as an image ({error})") from error


def _is_test(name: str) -> bool:
    return hashlib.sha256(name.encode()).digest()[0] < TEST_FRACTION * 256


def folder_key(folder: Path) -> str:
    """Return a key for the cache that changes with the folder's files."""
    digest = hashlib.sha256(str(folder.resolve()).encode())
    for path in sorted(folder.rglob("*")):
        if path.suffix.lower() in SUFFIXES:
            state = path.stat()
            digest.update(f"{path}\0{state.st_size}\0{state.st_mtime_ns}\0".encode())
    return digest.hexdigest()[:16]
