"""Image files of a folder ``domain/class/image`` or ``class/image``, and their pixels."""

from __future__ import annotations

import hashlib
import logging
import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from atoll.errors import DataUnavailableError

logger = logging.getLogger("atoll")

# Those that torchvision's ImageFolder reads, and so DomainBed.
SUFFIXES = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")
LAYOUT = "expected images as domain/class/image or class/image"
# Folders that archives from macOS have beside the real ones.
NOT_DATA = {"__MACOSX"}
# Folders below the deepest right place that are looked into, to say where images are instead.
DEEPEST = 5
SHOWN = 3


@dataclass(frozen=True)
class ImageFile:
    """An image file.

    Attributes
    ----------
    path : str
        Its path.
    parts : tuple[str, ...]
        Domain (if there are domains), class and name.
    state : tuple[int, int, int]
        Size in bytes, and when contents and anything at all last changed, in nanoseconds.
    """

    path: str
    parts: tuple[str, ...]
    state: tuple[int, int, int]


@dataclass(frozen=True)
class ImageFiles:
    """The images of a folder, in the order in which torchvision's ImageFolder has them.

    Attributes
    ----------
    root : Path
        The folder.
    files : tuple[ImageFile, ...]
        By domain, class and name.
    domains, classes : tuple[str, ...]
        The names, sorted; the classes are those of any domain.
    notes : tuple[str, ...]
        What was passed over, for the user to know.
    """

    root: Path
    files: tuple[ImageFile, ...]
    domains: tuple[str, ...]
    classes: tuple[str, ...]
    notes: tuple[str, ...]

    def sha256(self) -> str:
        """Return a hash of all files' names and states, without reading them.

        Whoever replaces a file can set its size and the time of its contents, but not the time of
        its last change.
        """
        digest = hashlib.sha256(os.fsencode(self.root.resolve()))
        for file in self.files:
            digest.update("\0".join((*file.parts, *map(str, file.state), "")).encode())
        return digest.hexdigest()


def list_images(root: Path) -> ImageFiles:
    """List the images of a folder; links are followed, hidden files and folders passed over.

    Raises
    ------
    DataUnavailableError
        If there are no images, one lies in another depth than the rest, a folder cannot be read, a
        link leads nowhere, a name is not Unicode, or there is one class only.
    """
    walk = _Walk()
    files = tuple(walk.below(str(root), ()))
    if not files:
        raise DataUnavailableError(
            f"{root}: {LAYOUT}, found 0 images ({', '.join(s[1:] for s in SUFFIXES)}){walk.seen()}"
        )
    depths = Counter(len(file.parts) for file in files)
    if depths.keys() not in ({2}, {3}):
        raise DataUnavailableError(_misplaced(root, files, depths))
    classes = tuple(sorted({file.parts[-2] for file in files}))
    if len(classes) < 2:
        raise DataUnavailableError(
            f"{root}: {LAYOUT}, found {len(files)} images of one class, {classes[0]!r}; expected "
            "at least 2 classes"
        )
    domains = tuple(sorted({f.parts[0] for f in files})) if depths.keys() == {3} else ()
    return ImageFiles(root, files, domains, classes, tuple(walk.notes(depths.keys() == {3})))


class _Walk:
    """One pass over the folders; knows afterwards what was no image."""

    def __init__(self) -> None:
        self.others: Counter[str] = Counter()
        self.empty: list[tuple[str, ...]] = []

    def below(self, folder: str, parts: tuple[str, ...]) -> Iterator[ImageFile]:
        """Yield the images below ``folder``, in order."""
        try:
            with os.scandir(folder) as found:
                entries = sorted((e for e in found if not _is_passed_over(e)), key=_name)
        except OSError as error:
            raise DataUnavailableError(f"{folder}: cannot be read ({error.strerror})") from error
        count = 0
        for entry in entries:
            own = (*parts, _unicode(entry))
            if entry.is_dir():
                if len(own) < DEEPEST:
                    yield from self.below(entry.path, own)
            elif entry.name.lower().endswith(SUFFIXES):
                count += 1
                yield ImageFile(entry.path, own, _state(entry))
            else:
                self.others[Path(entry.name).suffix.lower() or entry.name] += 1
        if not count and not any(entry.is_dir() for entry in entries):
            self.empty.append(parts)

    def notes(self, has_domains: bool) -> Iterator[str]:
        """Yield what was passed over, by kind."""
        empty = ["/".join(parts) for parts in self.empty if len(parts) == 1 + has_domains]
        if empty:
            yield f"{_some(empty)}: no images in it, so it is no class there"
        if self.others:
            yield f"passed over files that are no images{self.seen()}"

    def seen(self) -> str:
        """Return the kinds of other files, and how many there are of each."""
        kinds = [f"{count} {kind}" for kind, count in self.others.most_common(SHOWN)]
        return f"; other files: {', '.join(kinds)}" if kinds else ""


def _is_passed_over(entry: os.DirEntry[str]) -> bool:
    return entry.name.startswith(".") or entry.name in NOT_DATA


def _name(entry: os.DirEntry[str]) -> str:
    return entry.name


def _unicode(entry: os.DirEntry[str]) -> str:
    """Return an entry's name; the tables of a run hold Unicode only."""
    try:
        entry.name.encode()
    except UnicodeEncodeError:
        raise DataUnavailableError(
            f"{os.fsencode(entry.path)!r}: the name is not UTF-8; expected another name"
        ) from None
    return entry.name


def _state(entry: os.DirEntry[str]) -> tuple[int, int, int]:
    try:
        found = entry.stat()
    except OSError as error:
        what = "is a link to nothing" if entry.is_symlink() else error.strerror
        raise DataUnavailableError(f"{entry.path}: {what}; expected an image") from error
    return found.st_size, found.st_mtime_ns, found.st_ctime_ns


def _misplaced(root: Path, files: tuple[ImageFile, ...], depths: Counter[int]) -> str:
    """Say which images are not where images are expected, and what may be meant."""
    likely = max((2, 3), key=lambda depth: depths[depth])
    odd = [file for file in files if len(file.parts) != likely]
    message = f"{root}: {LAYOUT}, found {len(odd)} of {len(files)} images elsewhere"
    message += f" ({_some(['/'.join(file.parts) for file in odd])})"
    above = {file.parts[:-3] for file in files}
    if len(above) == 1 and (below := above.pop()):
        message += f"; did you mean data.path = {str(root.joinpath(*below))!r}?"
    return message


def _some(names: list[str]) -> str:
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more


@dataclass(frozen=True)
class Picture:
    """An image as it is kept.

    Attributes
    ----------
    pixels : NDArray[uint8]
        Shape (size, size, 3).
    aspect : float
        Its width by its height in the file.
    """

    pixels: NDArray[np.uint8]
    aspect: float


def read_picture(path: str, size: int) -> Picture:
    """Read an image as DomainBed does: the first frame, made RGB, resized bilinearly to a square.

    As there, transparency is dropped, and an orientation in the file's EXIF tags is not acted upon.
    Grey images of 16 bits are scaled to 8, where Pillow would cut them off at 255.

    Raises
    ------
    DataUnavailableError
        If it cannot be read.
    """
    try:
        with Image.open(path) as image:
            aspect = image.width / image.height
            square = _rgb(image).resize((size, size), Image.Resampling.BILINEAR)
            return Picture(np.asarray(square), aspect)
    except Exception as error:
        # Broken files make Pillow raise nearly anything: SyntaxError, struct.error, ...
        reason = str(error) or type(error).__name__
        raise DataUnavailableError(f"{path}: cannot be read as an image ({reason})") from error


def _rgb(image: Any) -> Any:
    if image.mode.startswith("I;16") or (image.mode == "I" and image.format == "PNG"):
        values = np.asarray(image).astype(np.int64)
        return Image.fromarray((values >> 8).astype(np.uint8)).convert("RGB")
    if image.mode in ("I", "F"):
        raise ValueError("it has 32 bits a pixel; expected 8 or 16 a channel")
    return image.convert("RGB")
