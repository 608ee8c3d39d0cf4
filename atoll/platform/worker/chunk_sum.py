"""The sum of a chunk's replies, with the check for NaN and infinite values at the chunk's end.

A sum is finite exactly if all its terms are, so one check of the sum replaces one of every reply;
only if it fails are the replies looked at one by one.
"""

from __future__ import annotations

from flwr.app import ArrayRecord

from atoll.clients.arrays.weighted_sum import WeightedSum
from atoll.platform.messages.packing import first_not_finite

# Replies kept for a second look; beyond this many bytes each is checked as it comes.
KEPT_BYTES = 8_000_000


class ChunkSum:
    """The weighted sum of a chunk's replies, without those that turn out not to be finite.

    Parameters
    ----------
    earlier : WeightedSum or None
        What the chunk's earlier clients had added up to.
    check_finite : bool
        Whether to look for NaN and infinite values at all.

    Attributes
    ----------
    refused : dict[int, str]
        By their place in the chunk, why replies that were added are in the sum no more.
    """

    def __init__(self, earlier: WeightedSum | None, *, check_finite: bool) -> None:
        self._check_finite = check_finite
        self._earlier = earlier
        self._total = _copy(earlier)
        self._unchecked: list[tuple[int, ArrayRecord, float]] = []
        self._kept_bytes = 0
        self.refused: dict[int, str] = {}

    def add(self, place: int, arrays: ArrayRecord, weight: float, num_bytes: int) -> str | None:
        """Add one reply.

        Parameters
        ----------
        place : int
            The client's place in the chunk.
        arrays, weight
            What to add.
        num_bytes : int
            Bytes of the arrays.

        Returns
        -------
        str or None
            Why it was not added, where that is known at once.
        """
        if self._check_finite and self._kept_bytes > KEPT_BYTES:
            self.close()
            problem = not_finite(arrays)
            if problem is not None:
                return problem
        elif self._check_finite:
            self._unchecked.append((place, arrays, weight))
            self._kept_bytes += num_bytes
        self._total.add(arrays, weight)
        return None

    def merge(self, total: WeightedSum) -> None:
        """Add a sum of finite replies that was made elsewhere."""
        self._total.merge(total)

    def close(self) -> WeightedSum:
        """Return the sum, after a check of what was added unchecked."""
        unchecked, self._unchecked = self._unchecked, []
        if unchecked and not self._total.is_finite():
            self._total = _copy(self._earlier)
            for place, arrays, weight in unchecked:
                problem = not_finite(arrays)
                if problem is None:
                    self._total.add(arrays, weight)
                else:
                    self.refused[place] = problem
        return self._total


def not_finite(arrays: ArrayRecord) -> str | None:
    """Return which array has NaN or infinite values, or None."""
    key = first_not_finite(arrays)
    return None if key is None else f"NaN or infinite values in {key!r}"


def _copy(total: WeightedSum | None) -> WeightedSum:
    copy = WeightedSum()
    if total is not None:
        copy.merge(total)
    return copy
