"""Copies of a state's arrays from round to round, made only of those that have changed.

A strategy may hold hundreds of megabytes that never change (public data, say).
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

# Bytes compared at a time: an array that has changed is mostly found in its first block.
BLOCK = 1 << 20


class ArrayHistory:
    """The newest copy of each array, by the path at which it is held."""

    def __init__(self) -> None:
        self._copies: dict[str, NDArray[Any]] = {}

    def keep(self, path: str, array: NDArray[Any]) -> NDArray[Any]:
        """Return a copy of ``array``: the one before, if its bytes are the same."""
        copy = self._copies.get(path)
        if copy is None or not _same_bytes(copy, array):
            copy = self._copies[path] = array.copy()
        return copy


def _same_bytes(copy: NDArray[Any], array: NDArray[Any]) -> bool:
    if copy.dtype != array.dtype or copy.shape != array.shape:
        return False
    if not (array.flags.c_contiguous and copy.flags.c_contiguous):
        return False
    old, new = copy.reshape(-1).view(np.uint8), array.reshape(-1).view(np.uint8)
    return all(
        np.array_equal(old[start : start + BLOCK], new[start : start + BLOCK])
        for start in range(0, old.size, BLOCK)
    )
