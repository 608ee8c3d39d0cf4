"""Example-weighted sums of replies in float64, added up where the replies are made.

A sum is kept in float64 and rounded once, at the end; replies are added in the cohort's order
and chunk sums along a fixed tree, so the mean has the same bits for any number of workers.

:class:`WeightedSum` is the one fold of replies' arrays. The platform adds to it: ``chunk_sum`` the
check for NaN, ``sum_tree`` the order of chunks, ``node_sums`` the node on which two sums are added,
``cohort_sums`` the whole of an exchange. Vectorised clients add their stacked parameters to the
same object (``clients/training/stacked/summed_training.py``). Sums that are of another kind have
their own: secure aggregation's (integers modulo a power of two), the domains' statistics of
alignment (torch, differentiated through), and differences from several versions of a model
(asynchronous).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import numpy as np
from flwr.app import ArrayRecord
from numpy.typing import NDArray

from atoll.flower.arrays import is_finite, to_array, view

Structure = tuple[tuple[str, tuple[int, ...], str], ...]

# Elements added at a time: the float64 products stay in the second-level cache.
BLOCK = 1 << 15


@lru_cache(maxsize=64)
def averaged_dtype(dtype: str) -> str:
    """Return the dtype that Flower's weighted mean gives arrays of ``dtype``: floats keep theirs.

    A BatchNorm counter goes out as float64 and comes back as int64: both average to float64. NumPy
    has no bfloat16, and messages of Flower's older API name no dtype: those stay as they are.
    """
    try:
        kind = np.dtype(dtype).kind
    except TypeError:
        # "bfloat16", or the name of a serialisation that is not NumPy's.
        return dtype
    return "float64" if kind in "iub" else dtype


@dataclass
class WeightedSum:
    """The sum of ``weight * arrays`` over replies, and the sum of the weights.

    Attributes
    ----------
    arrays : dict[str, NDArray[float64]]
        The sums by key, in the shapes of the replies' arrays.
    dtypes : dict[str, str]
        The dtype that the mean of each key will have.
    weight : float
        The sum of the weights so far.
    """

    arrays: dict[str, NDArray[np.float64]] = field(default_factory=dict)
    dtypes: dict[str, str] = field(default_factory=dict)
    weight: float = 0.0

    def add(self, record: ArrayRecord, weight: float) -> None:
        """Add one reply's arrays, ``weight`` times (its number of examples, usually)."""
        self.add_values({key: view(array) for key, array in record.items()}, weight)

    def add_values(self, values: Mapping[str, NDArray[Any]], weight: float) -> None:
        """Add one client's arrays, ``weight`` times."""
        # What is not finite is found in the sum (is_finite) and said of its client.
        with np.errstate(invalid="ignore", over="ignore"):
            for key, array in values.items():
                total = self.arrays.get(key)
                if total is None:
                    product = np.multiply(array, weight, dtype=np.float64, order="C")
                    self.arrays[key] = np.asarray(product)
                    self.dtypes[key] = averaged_dtype(str(array.dtype))
                else:
                    _add_scaled(total, array, weight)
        self.weight += weight

    def merge(self, later: WeightedSum) -> None:
        """Add the sum of later chunks; its arrays are not kept."""
        for key, values in later.arrays.items():
            total = self.arrays.get(key)
            if total is None:
                self.arrays[key] = np.array(values)
                self.dtypes[key] = later.dtypes[key]
            elif total.flags.writeable:
                total += values
            else:
                # It lies in the object store.
                self.arrays[key] = np.asarray(total + values)
        self.weight += later.weight

    def structure(self) -> Structure:
        """Return the keys, shapes and averaged dtypes of the sum."""
        return tuple((key, a.shape, self.dtypes[key]) for key, a in self.arrays.items())

    @property
    def nbytes(self) -> int:
        """The bytes of the sum's arrays."""
        return sum(values.nbytes for values in self.arrays.values())

    def is_finite(self) -> bool:
        """Tell whether no value of the sum is NaN or infinite."""
        return all(is_finite(values) for values in self.arrays.values())

    def mean(self) -> ArrayRecord:
        """Return the weighted mean, in the dtypes that Flower's own mean would have.

        Raises
        ------
        ZeroDivisionError
            If the weights sum to zero.
        """
        if self.weight == 0.0:
            raise ZeroDivisionError("the replies' weights sum to zero")
        return ArrayRecord(
            {
                key: to_array(np.asarray(total / self.weight, dtype=self.dtypes[key]))
                for key, total in self.arrays.items()
            }
        )


def _add_scaled(total: NDArray[np.float64], values: NDArray[np.generic], weight: float) -> None:
    if values.size <= BLOCK or not values.flags.c_contiguous:
        total += np.multiply(values, weight, dtype=np.float64)
        return
    flat_total, flat_values = total.reshape(-1), values.reshape(-1)
    products = np.empty(BLOCK, np.float64)
    for start in range(0, flat_total.size, BLOCK):
        block = flat_values[start : start + BLOCK]
        scaled = np.multiply(block, weight, out=products[: block.size], dtype=np.float64)
        flat_total[start : start + BLOCK] += scaled


def mean_metrics(
    rows: list[Mapping[str, int | float | list[int] | list[float]]], weighted_by: str
) -> dict[str, float | list[float]]:
    """Return the weighted mean of metrics, as Flower's ``aggregate_metricrecords`` defines it.

    Parameters
    ----------
    rows : list of mappings
        One a reply, all with the same keys, ``weighted_by`` among them.
    weighted_by : str
        The key of the weight; it is left out of the mean.
    """
    weights = [float(row[weighted_by]) for row in rows]  # type: ignore[arg-type]
    total = sum(weights)
    factors = [weight / total for weight in weights]
    means: dict[str, float | list[float]] = {}
    for key, first in rows[0].items():
        if key == weighted_by:
            continue
        if isinstance(first, list):
            columns = [
                np.asarray(row[key], np.float64) * factor
                for row, factor in zip(rows, factors, strict=True)
            ]
            means[key] = np.sum(columns, axis=0).tolist()
        else:
            values: list[float] = [float(row[key]) for row in rows]  # type: ignore[arg-type]
            means[key] = sum(v * factor for v, factor in zip(values, factors, strict=True))
    return means
