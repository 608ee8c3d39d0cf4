"""The sum of a chunk's replies, with the check for NaN and infinite values at the chunk's end.

A sum is finite exactly if all its terms are, so one check of the sum replaces one of every reply;
only if it fails are the replies looked at one by one.
"""

from __future__ import annotations

from flwr.app import ArrayRecord

from atoll import flower
from atoll.clients.arrays.weighted_sum import WeightedSum
from atoll.platform.messages.exchange import Outcome
from atoll.platform.messages.packing import first_not_finite

# Replies kept for a second look; beyond this many bytes each is checked as it comes.
KEPT_BYTES = 8_000_000


class ChunkSum:
    """Adds up replies; those that turn out not to be finite become errors.

    Parameters
    ----------
    earlier : WeightedSum or None
        What the chunk's earlier clients had added up to.
    check_finite : bool
        Whether to look for NaN and infinite values at all.
    """

    def __init__(self, earlier: WeightedSum | None, *, check_finite: bool) -> None:
        self._check_finite = check_finite
        self._earlier = earlier
        self._total = _copy(earlier)
        self._unchecked: list[tuple[Outcome, ArrayRecord, float]] = []
        self._kept_bytes = 0

    def add(self, outcome: Outcome, arrays: ArrayRecord, weight: float) -> None:
        """Add one reply, or make its outcome an error."""
        outcome.summed = True
        if self._check_finite and self._kept_bytes > KEPT_BYTES:
            self.close()
            if _refuse(outcome, arrays):
                return
        elif self._check_finite:
            self._unchecked.append((outcome, arrays, weight))
            self._kept_bytes += outcome.bytes_up
        self._total.add(arrays, weight)

    def merge(self, total: WeightedSum) -> None:
        """Add a sum of finite replies that was made elsewhere."""
        self._total.merge(total)

    def close(self) -> WeightedSum:
        """Return the sum, after a check of what was added unchecked."""
        unchecked, self._unchecked = self._unchecked, []
        if unchecked and not self._total.is_finite():
            self._total = _copy(self._earlier)
            for outcome, arrays, weight in unchecked:
                if not _refuse(outcome, arrays):
                    self._total.add(arrays, weight)
        return self._total


def _copy(total: WeightedSum | None) -> WeightedSum:
    copy = WeightedSum()
    if total is not None:
        copy.merge(total)
    return copy


def _refuse(outcome: Outcome, arrays: ArrayRecord) -> bool:
    key = first_not_finite(arrays)
    if key is not None:
        outcome.fail(f"NaN or infinite values in {key!r}", flower.REJECTED)
    return key is not None
