"""Data set of a user's callable: called with ``[data.options]``, checked, kept in the cache.

What is kept goes by the callable's source code (and that of what it imports beside it), its
arguments, and the files that these name. Another of them makes another data set.
"""

from __future__ import annotations

import hashlib
import inspect
import json
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from atoll.clients.data.domain_names import check_domain_names
from atoll.clients.data.files.cache import cache_root, scratch_folder
from atoll.clients.data.files.dataset import (
    Dataset,
    Decoded,
    Split,
    fingerprint_of,
    write_dataset,
)
from atoll.clients.data.user_data.examples import EXPECTED, Columns, is_split, read_columns
from atoll.clients.data.user_data.loaded_data import COLUMNS, LoadedData
from atoll.clients.data.user_data.own_tables import decode_own_table, is_table
from atoll.error_messages import closest
from atoll.errors import InvalidExperimentError
from atoll.files.atomic import appearing
from atoll.randomness import derive_seed
from atoll.registry import import_attribute
from atoll.user_code.error_places import user_code
from atoll.user_code.source_identity import source_hashes

logger = logging.getLogger("atoll")

KEY = "data.dataset"
TEST_FRACTION = 0.2
# Bump to forget data sets that older code has made otherwise.
FORMAT = 1
# Arguments that are no options: a callable that has them is given them.
GIVEN = ("path", "seed")


def check_user_options(reference: str, given: Mapping[str, Any]) -> None:
    """Refuse ``[data.options]`` that a user's callable does not take; it is not called.

    Raises
    ------
    InvalidExperimentError
        If there is no such callable, or with the option and the nearest that it takes.
    """
    _arguments(_callable(reference), reference, given, path=None, seed=0)


def load_user_dataset(
    reference: str, path: Path | None, options: Mapping[str, Any], seed: int
) -> Dataset:
    """Return the data set that a user's callable returns, from the cache if it is there.

    Parameters
    ----------
    reference : str
        ``module:callable``.
    path : Path or None
        ``data.path``, for a callable with an argument of that name.
    options : Mapping
        ``[data.options]``: its other arguments.
    seed : int
        The run's seed, for a callable with an argument ``seed`` that is not among the options; it
        decides too which examples are for test, where the callable does not.

    Raises
    ------
    InvalidExperimentError
        If it takes other arguments, or returns no data set.
    EngineError
        If it raises: with the place in the user's file.
    """
    load = _callable(reference)
    arguments = _arguments(load, reference, options, path, seed)
    sources = source_hashes([reference])
    described = [FORMAT, reference, sources, arguments, seed, list(_files(arguments))]
    digest = hashlib.sha256(json.dumps(described, sort_keys=True, default=str).encode())
    # Code without a file (a notebook's) cannot be told from other code: it is always called.
    key = digest.hexdigest()[:16] if sources else None
    folder = cache_root() / "datasets"
    name = reference.replace(":", ".")
    if key is not None and (folder / f"{name}-{key}" / "dataset.json").exists():
        logger.info(
            "%s = %r: from the cache; its code, options and files are the same", KEY, reference
        )
        return Dataset(folder / f"{name}-{key}")
    with scratch_folder("load-") as scratch:
        with user_code(f"{KEY} = {reference!r}"):
            returned = load(**arguments)
            try:
                decoded = _decoded(_as_loaded(returned), seed, scratch)
            except InvalidExperimentError as error:
                raise InvalidExperimentError(f"{KEY} = {reference!r}: returned {error}") from error
        target = folder / f"{name}-{key or fingerprint_of(decoded)[:16]}"
        if not (target / "dataset.json").exists():
            with appearing(target) as made:
                write_dataset(reference, decoded, made)
    return Dataset(target)


def _callable(reference: str) -> Callable[..., Any]:
    found = import_attribute(reference, KEY)
    if not callable(found):
        raise InvalidExperimentError(
            f"{KEY} = {reference!r}: is a {type(found).__name__}, expected a callable"
        )
    return found  # type: ignore[no-any-return]


def _arguments(
    load: Callable[..., Any],
    reference: str,
    options: Mapping[str, Any],
    path: Path | None,
    seed: int,
) -> dict[str, Any]:
    """Return the keyword arguments of a call, checked against the signature."""
    try:
        parameters = inspect.signature(load).parameters
    except (TypeError, ValueError):
        return dict(options)
    takes_all = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    named = [n for n, p in parameters.items() if p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL)]
    for option, value in options.items():
        if option not in named and not takes_all:
            known = [name for name in named if name not in GIVEN]
            hint = closest(option, known, none="it takes none")
            raise InvalidExperimentError(
                f"data.options.{option} = {value!r}: {reference} has no such argument; {hint}"
            )
    arguments = dict(options)
    if path is not None:
        if "path" not in named and not takes_all:
            raise InvalidExperimentError(
                f"data.path = {str(path)!r}: {reference} has no argument 'path'; expected one, or "
                "no data.path"
            )
        arguments["path"] = path
    if "seed" in named:
        arguments.setdefault("seed", seed)
    for name in named:
        is_needed = parameters[name].default is inspect.Parameter.empty
        if is_needed and name not in arguments and name != "path":
            raise InvalidExperimentError(f"data.options.{name} is not set; {reference} needs it")
    return arguments


def _files(arguments: Mapping[str, Any]) -> Iterator[tuple[str, int, int]]:
    """Yield the files that arguments name, or that lie in folders which they name."""
    for value in arguments.values():
        if isinstance(value, str | Path) and str(value):
            place = Path(value).expanduser()
            # "/" or "." may be a separator; no folder around the current one is somebody's data.
            is_around = isinstance(value, str) and Path.cwd().is_relative_to(place.resolve())
            is_folder = place.is_dir() and not is_around
            for file in sorted(place.rglob("*")) if is_folder else [place]:
                if file.is_file():
                    stat = file.stat()
                    yield str(file), stat.st_size, stat.st_mtime_ns


def _as_loaded(returned: Any) -> LoadedData:
    """Return what a callable returned with its schema."""
    if isinstance(returned, LoadedData):
        return returned
    if returned is None:
        raise InvalidExperimentError(f"None; {EXPECTED}")
    if is_split(returned):
        return LoadedData(returned)
    if isinstance(returned, Mapping) and "train" in returned:
        # A Hugging Face DatasetDict has other splits too.
        return LoadedData(returned["train"], returned.get("test"))
    if isinstance(returned, tuple | list) and len(returned) == 2 and all(map(is_split, returned)):
        return LoadedData(*returned)
    shown = f"a {type(returned).__name__}"
    if isinstance(returned, tuple | list):
        shown += f" of {', '.join(type(part).__name__ for part in returned[:4]) or 'nothing'}"
    raise InvalidExperimentError(f"{shown}; {EXPECTED}")


def _decoded(data: LoadedData, seed: int, scratch: Path) -> Decoded:
    _check_augmentation(data.augmentation)
    _check_columns(data.columns)
    if is_table(data):
        return decode_own_table(data, seed)
    splits = [read_columns(data.train, data.columns, scratch / "train")]
    if data.test is not None:
        splits.append(read_columns(data.test, data.columns, scratch / "test"))
        _check_alike(*splits)
    classes, labels = _coded("label", splits, data.classes)
    domains, of_domain = _coded("domain", splits, data.domains)
    _, groups = _coded("group", splits, None)
    made = [
        Split(columns.images, labels[place], _at(of_domain, place), _at(groups, place))
        for place, columns in enumerate(splits)
    ]
    if len(made) == 1:
        made = list(_held_out(made[0], seed))
    check_domain_names(domains)
    return Decoded(classes, made[0], made[1], domains, data.normalization, data.augmentation)


def _check_augmentation(name: str) -> None:
    # It loads PyTorch, which a check of options does without.
    from atoll.clients.data.images.augmentation import AUGMENTATIONS

    known = ["none", *AUGMENTATIONS]
    if name not in known:
        raise InvalidExperimentError(f"augmentation = {name!r}; {closest(name, known)}")


def _check_columns(columns: Mapping[str, str]) -> None:
    for name in columns:
        if name not in COLUMNS:
            raise InvalidExperimentError(f"columns with {name!r}; {closest(name, list(COLUMNS))}")


def _check_alike(train: Columns, test: Columns) -> None:
    if train.images.shape[1:] != test.images.shape[1:]:
        raise InvalidExperimentError(
            f"training images of {train.images.shape[1:]} and test images of "
            f"{test.images.shape[1:]} (height, width, channels); expected the same"
        )
    if set(train.values) != set(test.values):
        [name, *_] = set(train.values) ^ set(test.values)
        raise InvalidExperimentError(
            f"a column {name!r} in one of train and test only; expected it in both"
        )


def _coded(
    column: str, splits: Sequence[Columns], names: Sequence[str] | None
) -> tuple[tuple[str, ...], list[NDArray[np.int64]]]:
    """Return a column's names, and its values in each split as numbers of them.

    Numbers are places in the names, where these are known; else the distinct values are names.
    """
    if column not in splits[0].values:
        return (), []
    names = names or splits[0].names.get(column)
    values = [split.values[column] for split in splits]
    distinct = sorted({value for each in values for value in each.tolist()}, key=_order)
    if names is None:
        numbers = {value: number for number, value in enumerate(distinct)}
        names = [str(value) for value in distinct]
    elif isinstance(distinct[0], str):
        numbers = {name: number for number, name in enumerate(names)}
    else:
        numbers = {number: number for number in range(len(names))}
    unknown = [value for value in distinct if value not in numbers]
    if unknown:
        raise InvalidExperimentError(
            f"the {column} {unknown[0]!r}, with {len(names)} names ({', '.join(names[:4])}, ...); "
            f"expected one of them, or a number from 0 to {len(names) - 1}"
        )
    coded = [np.array([numbers[value] for value in each.tolist()], np.int64) for each in values]
    return tuple(map(str, names)), coded


def _order(value: Any) -> tuple[bool, Any]:
    return isinstance(value, str), value


def _at(columns: Sequence[NDArray[np.int64]], place: int) -> NDArray[np.int64] | None:
    return columns[place] if columns else None


def _held_out(split: Split, seed: int) -> Iterator[Split]:
    """Yield the examples for training and for test: a random fifth of each domain, or of groups."""
    generator = np.random.default_rng(derive_seed(seed, "test examples"))
    is_test = np.zeros(len(split), np.bool_)
    strata = np.zeros(len(split), np.int64) if split.domains is None else split.domains
    units = np.arange(len(split)) if split.groups is None else split.groups
    if split.groups is not None:
        # Examples of a group never lie on both sides, whatever their domains.
        strata = np.zeros(len(split), np.int64)
    for stratum in np.unique(strata):
        own = np.unique(units[strata == stratum])
        chosen = generator.permutation(own)[: round(len(own) * TEST_FRACTION)]
        is_test |= np.isin(units, chosen) & (strata == stratum)
    if is_test.all() or not is_test.any():
        raise InvalidExperimentError(
            f"{len(split)} examples, of which a fifth is none or all; expected more, or a pair "
            "(train, test)"
        )
    for mask in (~is_test, is_test):
        yield Split(
            split.images[mask],
            split.labels[mask],
            None if split.domains is None else split.domains[mask],
            None if split.groups is None else split.groups[mask],
        )
