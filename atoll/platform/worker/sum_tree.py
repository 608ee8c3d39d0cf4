"""The order in which a cohort's chunk sums are added: a binary tree over the chunks.

Its shape depends on the number of chunks alone. What two halves of a span of chunks add up to has
the same bits wherever they are added: in the driver, or on the node that has both
(``node_sums.py``).
"""

from __future__ import annotations

from atoll.clients.arrays.weighted_sum import WeightedSum

# The chunks from the first number up to the second, without it.
Span = tuple[int, int]


def halves(span: Span) -> tuple[Span, Span]:
    """Return the two spans whose sums make a span's; it has more than one chunk."""
    start, stop = span
    middle = (start + stop) // 2
    return (start, middle), (middle, stop)


def parent_of(span: Span, count: int) -> tuple[Span, Span]:
    """Return the span of which a span is a half, and the other half.

    Parameters
    ----------
    span : Span
        A span of the tree, and not the whole.
    count : int
        How many chunks there are.
    """
    parent = (0, count)
    while True:
        left, right = halves(parent)
        if span == left:
            return parent, right
        if span == right:
            return parent, left
        parent = left if span[1] <= left[1] else right


class TreeSum:
    """Adds up chunk sums as they come, in whatever order.

    Parameters
    ----------
    count : int
        How many chunks there are.
    """

    def __init__(self, count: int) -> None:
        self._count = count
        self._parts: dict[Span, WeightedSum] = {}

    def add(self, span: Span, part: WeightedSum) -> None:
        """Take the sum of a span; it may change, or become another's."""
        while span != (0, self._count):
            parent, sibling = parent_of(span, self._count)
            other = self._parts.pop(sibling, None)
            if other is None:
                break
            part, later = (part, other) if span < sibling else (other, part)
            part.merge(later)
            span = parent
        self._parts[span] = part

    def part(self, span: Span) -> WeightedSum:
        """Return the sum of a span all of whose chunks are there."""
        return self._parts[span]

    @property
    def total(self) -> WeightedSum:
        """The sum of all chunks; empty while some are missing."""
        return self._parts.setdefault((0, self._count), WeightedSum())
