"""The names that experiment files can use, with a line about each."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

from atoll.registry import Registry

Rows = list[tuple[str, str]]


def _datasets() -> Rows:
    from atoll.clients.data.catalog import DATASETS

    return [(name, entry.about) for name, entry in DATASETS.items()]


def _models() -> Rows:
    from atoll.clients.models import MODELS

    return _documented(MODELS)


def _partitioners() -> Rows:
    from atoll.clients.data.partitioning.partitioners import PARTITIONERS

    return _documented(PARTITIONERS)


def _strategies() -> Rows:
    from atoll.strategies import STRATEGIES

    return _documented(STRATEGIES)


def _mods() -> Rows:
    from atoll.platform.config.client_mods import MODS

    return _documented(MODS)


def _attacks() -> Rows:
    from atoll.attacks import ATTACKS

    return _documented(ATTACKS)


def _generators() -> Rows:
    from atoll.attacks.generators import GENERATORS

    ours = ("DATASET", "our generator of a data set, by the data set's name: train-generator")
    return [ours, *_documented(GENERATORS)]


def _documented(entries: Mapping[str, Any]) -> Rows:
    rows = []
    for name, entry in entries.items():
        lines = (inspect.getdoc(entry) or "").splitlines()
        rows.append((name, lines[0] if lines else ""))
    return rows


LISTS: Registry[Callable[[], Rows]] = Registry(
    "list",
    {
        "datasets": _datasets,
        "models": _models,
        "partitioners": _partitioners,
        "strategies": _strategies,
        "mods": _mods,
        "attacks": _attacks,
        "generators": _generators,
    },
)


def describe(kind: str) -> Rows:
    """Return the names of a kind and what each is.

    Raises
    ------
    UnknownNameError
        If there is no such kind.
    """
    rows: Rows = LISTS.find(kind, "atoll list")()
    return rows
