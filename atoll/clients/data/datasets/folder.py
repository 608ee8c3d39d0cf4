"""Image folders ``domain/class/image`` or ``class/image``: PACS and similar, and the user's own.

Splits are DomainBed's to the image (Gulrajani and Lopez-Paz, 2021, arXiv 2007.01434): a random
fifth of each domain is held out, drawn as their code draws it (commit b93c22a,
``domainbed/scripts/train.py`` and ``domainbed/lib/misc.py``).
"""

from __future__ import annotations

import hashlib
import logging
import os
import shutil
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from atoll.clients.data.datasets.image_files import (
    ImageFile,
    ImageFiles,
    Picture,
    list_images,
    read_picture,
)
from atoll.clients.data.domain_names import check_domain_names
from atoll.clients.data.files.dataset import Decoded, Split
from atoll.clients.ranges import Pixels, Seed
from atoll.clients.settings import Section
from atoll.errors import DataUnavailableError

logger = logging.getLogger("atoll")

TEST_FRACTION = 0.2
# So many images of a domain leave one for test.
SMALLEST_DOMAIN = 5
# Bump to forget folders that older code has decoded otherwise.
FORMAT = 2
# Images decoded at once, and so the most that are in memory.
BLOCK = 256
MOST_THREADS = 16
# Folders of so many images and more say how far they are.
MANY = 5_000
# Broken images that an error names.
SHOWN = 5
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
        Decides which images are test examples; DomainBed's ``trial_seed``.
    """

    image_size: Pixels = 64
    normalization: Literal["dataset", "imagenet", "caffe"] = "dataset"
    augmentation: Literal["none", "domainbed"] = "none"
    seed: Seed = 0


def folder_key(images: ImageFiles, options: FolderOptions) -> str:
    """Return a key for the cache that changes with the folder's images and the options."""
    described = f"{FORMAT} {options.model_dump_json()} {images.sha256()}"
    return hashlib.sha256(described.encode()).hexdigest()[:16]


def decode_folder(
    images: ImageFiles | Path, options: FolderOptions | None = None, scratch: Path | None = None
) -> Decoded:
    """Decode an image folder; images are resized, bilinearly, to a square of RGB.

    Parameters
    ----------
    images : ImageFiles or Path
        The folder's images, or the folder.
    options : FolderOptions, optional
        See there.
    scratch : Path, optional
        Where decoded images may lie, for folders larger than memory: no more than 256 are in
        memory then.

    Raises
    ------
    DataUnavailableError
        If there are no images two or three levels down, some cannot be read (the error names them),
        two domains cannot be told apart in the ledger, a domain is too small to be split, or the
        disk is.
    """
    if isinstance(images, Path):
        images = list_images(images)
    options = options or FolderOptions()
    labels, which = _numbers(images)
    _check_domains(images, which)
    if scratch is not None:
        _check_room(images, options.image_size, scratch)
    for note in images.notes:
        logger.warning("%s: %s", images.root, note)
    is_test = domainbed_test_mask(which, options.seed)
    decoder = _Decoder(images, options.image_size, scratch)
    splits = {}
    for name, chosen in (("train", np.flatnonzero(~is_test)), ("test", np.flatnonzero(is_test))):
        pixels, aspects = decoder.decode(name, chosen)
        of_domain = which[chosen] if images.domains else None
        splits[name] = Split(pixels, labels[chosen], of_domain, aspects=aspects)
    decoder.check_all_were_read()
    return Decoded(
        images.classes,
        splits["train"],
        splits["test"],
        images.domains,
        NORMALIZATIONS[options.normalization],
        options.augmentation,
    )


def domainbed_test_mask(domains: NDArray[np.int64], seed: int) -> NDArray[np.bool_]:
    """Return which images are held out: DomainBed's "out-split", a random fifth of each domain.

    Parameters
    ----------
    domains : NDArray[int64]
        Shape (n,): each image's domain, a number in the order of the domains' names; the images of
        a domain by class and name, as torchvision sorts them.
    seed : int
        DomainBed's ``trial_seed``.
    """
    chosen = np.zeros(len(domains), np.bool_)
    for domain in np.unique(domains).tolist():
        own = np.flatnonzero(domains == domain)
        name = str((seed, domain)).encode()
        hashed = int(hashlib.md5(name, usedforsecurity=False).hexdigest(), 16) % 2**31
        # Only NumPy's old generator draws the same images.
        np.random.RandomState(hashed).shuffle(own)
        chosen[own[: int(len(own) * TEST_FRACTION)]] = True
    return chosen


def _numbers(images: ImageFiles) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return each image's class and domain."""
    classes = {name: number for number, name in enumerate(images.classes)}
    domains = {name: number for number, name in enumerate(images.domains)}
    labels = np.array([classes[file.parts[-2]] for file in images.files], np.int64)
    if not domains:
        return labels, np.zeros_like(labels)
    return labels, np.array([domains[file.parts[0]] for file in images.files], np.int64)


def _check_domains(images: ImageFiles, which: NDArray[np.int64]) -> None:
    """Refuse domains that are too small, or that would have the same columns in the ledger.

    Columns have no hyphens.
    """
    for number, count in enumerate(np.bincount(which)):
        if count < SMALLEST_DOMAIN:
            name = images.root / (images.domains[number] if images.domains else "")
            raise DataUnavailableError(
                f"{name}: has {count} images; expected at least {SMALLEST_DOMAIN}, of which a "
                "fifth is for test"
            )
    check_domain_names(images.domains, f"{images.root}: ")


def _check_room(images: ImageFiles, size: int, scratch: Path) -> None:
    """Refuse what the disk has no room for: while it is made, the data set is there twice."""
    needed, free = 2 * len(images.files) * size * size * 3, shutil.disk_usage(scratch).free
    if needed > free:
        raise DataUnavailableError(
            f"{images.root}: {len(images.files)} images at data.options.image_size = {size} take "
            f"{needed / 1e9:.1f} GB in {scratch.parent} while they are decoded (half of it "
            f"afterwards), and {free / 1e9:.1f} GB are free; expected smaller images, or a cache "
            "on another disk (ATOLL_CACHE)"
        )


class _Decoder:
    """Decodes a folder's images, a block at a time, on all processors."""

    def __init__(self, images: ImageFiles, size: int, scratch: Path | None) -> None:
        self._images, self._size, self._scratch = images, size, scratch
        self._done = 0
        self._broken: list[str] = []

    def decode(
        self, name: str, chosen: NDArray[np.int64]
    ) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
        """Return the chosen images' pixels, shape (n, size, size, 3), and their aspects.

        The pixels are in the file ``name`` in the scratch folder, if there is one. Images that
        cannot be read are black.
        """
        files = [self._images.files[index] for index in chosen]
        shape = (len(files), self._size, self._size, 3)
        aspects = np.ones(len(files), np.float32)
        if self._scratch is None or not files:
            pixels = np.zeros(shape, np.uint8)
            for place, picture in enumerate(self._pictures(files)):
                pixels[place], aspects[place] = picture.pixels, picture.aspect
            return pixels, aspects
        path = self._scratch / name
        # Written, not mapped: a full disk is an error then, and not the end of the process.
        with path.open("wb") as file:
            for place, picture in enumerate(self._pictures(files)):
                file.write(picture.pixels.data)
                aspects[place] = picture.aspect
        return np.memmap(path, np.uint8, "r", shape=shape), aspects

    def check_all_were_read(self) -> None:
        """Refuse the folder if images cannot be read, and name them."""
        if self._broken:
            more = len(self._broken) - SHOWN
            raise DataUnavailableError(
                "; ".join(self._broken[:SHOWN]) + (f"; and {more} more" if more > 0 else "")
            )

    def _pictures(self, files: Sequence[ImageFile]) -> Iterator[Picture]:
        # Pillow decodes and resizes without Python's lock.
        with ThreadPoolExecutor(min(os.cpu_count() or 1, MOST_THREADS)) as pool:
            for start in range(0, len(files), BLOCK):
                paths = [file.path for file in files[start : start + BLOCK]]
                yield from pool.map(partial(self._read, size=self._size), paths)
                self._say_how_far(len(paths))

    def _read(self, path: str, size: int) -> Picture:
        try:
            return read_picture(path, size)
        except DataUnavailableError as error:
            self._broken.append(str(error))
            return Picture(np.zeros((size, size, 3), np.uint8), 1.0)

    def _say_how_far(self, done: int) -> None:
        total = len(self._images.files)
        before, self._done = self._done, self._done + done
        if total >= MANY and self._done * 10 // total > before * 10 // total:
            logger.info("%s: decoded %d of %d images", self._images.root, self._done, total)
