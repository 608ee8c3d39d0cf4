"""Image folders ``domain/class/*.png|jpg`` (or ``class/*.png|jpg``): PACS and the user's own.

Splits are DomainBed's (Gulrajani and Lopez-Paz, 2021): a random fifth of each domain is held out.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from atoll.clients.data.store import Decoded, Split
from atoll.clients.settings import PositiveInt, Section
from atoll.errors import DataUnavailableError
from atoll.randomness import derive_seed

SUFFIXES = {".png", ".jpg", ".jpeg"}
TEST_FRACTION = 0.2
# Per channel (red, green, blue), in units of [0, 1]. "caffe" is what weights from Keras expect:
# the mean subtracted at the scale of 0 to 255.
NORMALIZATIONS = {
    "dataset": None,
    "imagenet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "caffe": ((123.68 / 255, 116.779 / 255, 103.939 / 255), (1 / 255, 1 / 255, 1 / 255)),
}


class FolderOptions(Section):
    """Options of an image folder.

    Attributes
    ----------
    image_size : int
        Images are resized to so many pixels in height and width; DomainBed's are 224.
    normalization : str
        "dataset" (the training images' own mean and deviation), "imagenet" or "caffe".
    augmentation : str
        "none" or "domainbed".
    seed : int
        Decides which images are test examples.
    """

    image_size: PositiveInt = 64
    normalization: Literal["dataset", "imagenet", "caffe"] = "dataset"
    augmentation: Literal["none", "domainbed"] = "none"
    seed: Annotated[int, Field(ge=0)] = 0


def decode_folder(
    folder: Path, options: FolderOptions | None = None, scratch: Path | None = None
) -> Decoded:
    """Decode an image folder; images are resized, bilinearly, to a square of RGB.

    Parameters
    ----------
    folder : Path
        The folder.
    options : FolderOptions, optional
        See there.
    scratch : Path, optional
        Where decoded images may lie, for folders larger than memory.

    Raises
    ------
    DataUnavailableError
        If there are no images two or three levels down, one cannot be read, or two domains cannot
        be told apart in the ledger.
    """
    options = options or FolderOptions()
    files = sorted(p for p in folder.rglob("*") if p.suffix.lower() in SUFFIXES)
    parts = [p.relative_to(folder).parts for p in files]
    depths = {len(p) for p in parts}
    if depths not in ({2}, {3}):
        raise DataUnavailableError(
            f"{folder}: expected images as domain/class/*.png|jpg or class/*.png|jpg, found "
            f"{len(files)} images"
        )
    domains = tuple(sorted({p[0] for p in parts})) if depths == {3} else ()
    _check_names(folder, domains)
    classes = tuple(sorted({p[-2] for p in parts}))
    labels = np.array([classes.index(p[-2]) for p in parts], np.int64)
    which = np.array([domains.index(p[0]) for p in parts], np.int64) if domains else None
    is_test = _is_test(np.zeros_like(labels) if which is None else which, options.seed)
    splits = {}
    for name, chosen in (("train", np.flatnonzero(~is_test)), ("test", np.flatnonzero(is_test))):
        images = _read_all([files[index] for index in chosen], options.image_size, name, scratch)
        of_domain = None if which is None else which[chosen]
        splits[name] = Split(images, labels[chosen], of_domain)
    return Decoded(
        classes,
        splits["train"],
        splits["test"],
        domains,
        NORMALIZATIONS[options.normalization],
        options.augmentation,
    )


def _check_names(folder: Path, domains: tuple[str, ...]) -> None:
    """Refuse domains that would have the same columns in the ledger, which has no hyphens."""
    by_column: dict[str, str] = {}
    for domain in domains:
        other = by_column.setdefault(domain.replace("-", "_"), domain)
        if other != domain:
            raise DataUnavailableError(
                f"{folder}: the domains {other!r} and {domain!r} differ only by '-' and '_' and "
                "would share their columns in the ledger; expected another name for one of them"
            )


def _is_test(domains: NDArray[np.int64], seed: int) -> NDArray[np.bool_]:
    """Return which images are held out: a random fifth of each domain."""
    chosen = np.zeros(len(domains), np.bool_)
    for domain in np.unique(domains):
        own = np.flatnonzero(domains == domain)
        generator = np.random.default_rng(derive_seed(seed, "folder split", int(domain)))
        chosen[generator.permutation(own)[: int(TEST_FRACTION * len(own))]] = True
    return chosen


def _read_all(files: list[Path], size: int, name: str, scratch: Path | None) -> NDArray[np.uint8]:
    shape = (len(files), size, size, 3)
    images: NDArray[np.uint8]
    if scratch is None or not files:
        images = np.empty(shape, np.uint8)
    else:
        images = np.memmap(scratch / name, np.uint8, "w+", shape=shape)
    for place, path in enumerate(files):
        images[place] = _read(path, size)
    return images


def _read(path: Path, size: int) -> NDArray[np.uint8]:
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(path) as image:
            return np.asarray(image.convert("RGB").resize((size, size), Image.Resampling.BILINEAR))
    except (OSError, UnidentifiedImageError) as error:
        raise DataUnavailableError(f"{path}: cannot be read as an image ({error})") from error


def folder_key(folder: Path, options: FolderOptions) -> str:
    """Return a key for the cache that changes with the folder's files and the options."""
    digest = hashlib.sha256(str(folder.resolve()).encode())
    digest.update(options.model_dump_json().encode())
    for path in sorted(folder.rglob("*")):
        if path.suffix.lower() in SUFFIXES:
            state = path.stat()
            digest.update(f"{path}\0{state.st_size}\0{state.st_mtime_ns}\0".encode())
    return digest.hexdigest()[:16]
