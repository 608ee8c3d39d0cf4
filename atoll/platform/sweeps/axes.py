"""Axes of a sweep: lists of values, and distributions, by an experiment's keys."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from atoll.errors import InvalidExperimentError
from atoll.platform.config.experiment import Experiment
from atoll.platform.sweeps.random_search import Distribution, distribution_of, is_distribution

SEED, HELD_OUT, STRATEGY = "run.seed", "data.held_out", "strategy.name"
EACH = "each"


def axes_of(grid: Any, key: str) -> dict[str, list[Any]]:
    """Return a grid's lists of values by experiment key.

    Parameters
    ----------
    grid : Mapping
        As TOML has it: keys quoted, or tables of them.
    key : str
        Where it is in the file, for errors.

    Raises
    ------
    InvalidExperimentError
        If it is no such grid.
    """
    if not isinstance(grid, Mapping):
        raise InvalidExperimentError(f"{key} = {grid!r}: expected lists of values by key")
    axes: dict[str, list[Any]] = {}
    for name, values in _flattened(grid):
        _check_key(name, key)
        axes[name] = [EACH] if (name, values) == (HELD_OUT, EACH) else _values(values, key, name)
    return axes


def distributions_of(random: Any, key: str) -> dict[str, Distribution]:
    """Return what values are drawn from, by experiment key; the parameters are those of a grid.

    Raises
    ------
    InvalidExperimentError
        If something else is there, or a key that is nothing to draw at random.
    """
    if not isinstance(random, Mapping):
        raise InvalidExperimentError(f"{key} = {random!r}: expected distributions by key")
    found: dict[str, Distribution] = {}
    for name, value in _flattened(random):
        _check_key(name, key)
        if name in (SEED, HELD_OUT, STRATEGY):
            raise InvalidExperimentError(
                f"{key}.{name}: is nothing to draw at random; expected it in a grid"
            )
        found[name] = distribution_of(value, f"{key}.{name}")
    return found


def _check_key(name: str, key: str) -> None:
    parts = name.split(".")
    if len(parts) < 2 or not all(parts) or parts[0] not in Experiment.model_fields:
        raise InvalidExperimentError(
            f"{key}.{name}: expected an experiment's key, 'client.learning_rate' say"
        )


def _flattened(grid: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Yield dotted keys and values, whether TOML had the keys quoted or made tables of them."""
    for name, values in grid.items():
        if not is_distribution(values):
            yield from ((f"{name}.{rest}", some) for rest, some in _flattened(values))
        else:
            yield name, values


def _values(values: Any, key: str, name: str) -> list[Any]:
    if not isinstance(values, list) or not values:
        raise InvalidExperimentError(
            f"{key}.{name} = {values!r}: expected a list of values, not empty"
        )
    repeated = [value for place, value in enumerate(values) if value in values[:place]]
    if repeated:
        raise InvalidExperimentError(
            f"{key}.{name} = {values!r}: has {repeated[0]!r} twice; expected each value once"
        )
    return values
