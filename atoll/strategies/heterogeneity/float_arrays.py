"""Arithmetic on the arrays of models, in float64, rounded once to the arrays' own precision."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
from flwr.app import Array, ArrayRecord
from numpy.typing import NDArray

from atoll.flower.arrays import array_record, to_array, view

# BatchNorm's running statistics are means: no update is scaled beyond them.
RUNNING = ("running_mean", "running_var")
Floats = NDArray[np.float64]


def is_weight(key: str, array: Array) -> bool:
    """Tell whether an array is of parameters: of floats, and no running statistic."""
    return np.dtype(array.dtype).kind == "f" and not key.endswith(RUNNING)


def weight_keys(arrays: ArrayRecord) -> list[str]:
    """Return the keys of the arrays of parameters, in order."""
    return [key for key, array in arrays.items() if is_weight(key, array)]


def floats(array: Array) -> Floats:
    """Return an array's values in float64."""
    return view(array).astype(np.float64)


def zeros_of(arrays: ArrayRecord, keys: Iterable[str]) -> ArrayRecord:
    """Return zeros of the shapes and dtypes of these arrays."""
    return array_record(
        {key: to_array(np.zeros(arrays[key].shape, arrays[key].dtype)) for key in keys}
    )


def combined(
    arrays: ArrayRecord, keys: Iterable[str], combine: Callable[[str], NDArray[Any]]
) -> ArrayRecord:
    """Return arrays with those of ``keys`` replaced by what ``combine`` returns for each."""
    changed = set(keys)
    return array_record(
        {
            key: to_array(combine(key).astype(array.dtype)) if key in changed else array
            for key, array in arrays.items()
        }
    )


def squared_distance(first: ArrayRecord, second: ArrayRecord, keys: Iterable[str]) -> float:
    """Return the squared distance of two models over these arrays."""
    return sum(float(np.square(floats(first[k]) - floats(second[k])).sum()) for k in keys)


def extrapolated(before: ArrayRecord, mean: ArrayRecord, factor: float) -> ArrayRecord:
    """Return ``before + factor (mean - before)``; ``mean`` itself, to the bit, for a factor of 1.

    Running statistics and integers are those of ``mean``.
    """
    if factor == 1.0:
        return mean
    return combined(
        mean,
        weight_keys(before),
        lambda key: floats(before[key]) + factor * (floats(mean[key]) - floats(before[key])),
    )
