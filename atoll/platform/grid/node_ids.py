"""The ids of a federation's nodes: a set, as Flower's grids return it, without an object a node."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, MutableSet, Reversible, Sequence, Set


class NodeIds(MutableSet[int], Reversible[int]):
    """The ids 1 to N, which can also be indexed.

    It has the methods of Python's ``set``, which Flower's grids return. A change makes it a set of
    its own; no other is changed.

    Parameters
    ----------
    count : int
        N.
    absent : Set[int]
        Those that are left out.
    """

    def __init__(self, count: int, absent: Set[int] = frozenset()) -> None:
        everyone = range(1, count + 1)
        self._ids: Sequence[int] = everyone
        if absent:
            self._ids = tuple(node for node in everyone if node not in absent)
        self._known: range | frozenset[int] = frozenset(self._ids) if absent else everyone
        self._changed: set[int] | None = None

    def __contains__(self, node: object) -> bool:
        return node in (self._known if self._changed is None else self._changed)

    def __iter__(self) -> Iterator[int]:
        return iter(self._ids if self._changed is None else self._changed)

    def __len__(self) -> int:
        return len(self._ids if self._changed is None else self._changed)

    def __reversed__(self) -> Iterator[int]:
        return reversed(self._ids if self._changed is None else sorted(self._changed))

    def __getitem__(self, place: int) -> int:
        return self._ids[place] if self._changed is None else sorted(self._changed)[place]

    def __hash__(self) -> int:
        return self._hash()

    def __repr__(self) -> str:
        return f"NodeIds({len(self)})"

    @classmethod
    def _from_iterable(cls, ids: Iterable[int]) -> set[int]:  # type: ignore[override]
        return set(ids)

    def add(self, node: int) -> None:
        """Add a node's id."""
        self._own().add(node)

    def discard(self, node: int) -> None:
        """Remove a node's id, if it is there."""
        self._own().discard(node)

    def pop(self) -> int:
        """Remove and return one of the ids."""
        return self._own().pop()

    def clear(self) -> None:
        """Remove all ids."""
        self._own().clear()

    def update(self, *others: Iterable[int]) -> None:
        """Add the ids of others."""
        self._own().update(*others)

    def difference_update(self, *others: Iterable[int]) -> None:
        """Remove the ids of others."""
        self._own().difference_update(*others)

    def intersection_update(self, *others: Iterable[int]) -> None:
        """Remove the ids that are not in all others."""
        self._own().intersection_update(*others)

    def symmetric_difference_update(self, other: Iterable[int]) -> None:
        """Keep the ids that are in one of both."""
        self._own().symmetric_difference_update(other)

    def copy(self) -> set[int]:
        """Return the ids as a set."""
        return set(self)

    def union(self, *others: Iterable[int]) -> set[int]:
        """Return the ids and those of others."""
        return set(self).union(*others)

    def intersection(self, *others: Iterable[int]) -> set[int]:
        """Return the ids that are in all others too."""
        return set(self).intersection(*others)

    def difference(self, *others: Iterable[int]) -> set[int]:
        """Return the ids that are in no other."""
        return set(self).difference(*others)

    def symmetric_difference(self, other: Iterable[int]) -> set[int]:
        """Return the ids that are in one of both."""
        return set(self).symmetric_difference(other)

    def issubset(self, other: Iterable[int]) -> bool:
        """Tell whether all are in another."""
        return set(self).issubset(other)

    def issuperset(self, other: Iterable[int]) -> bool:
        """Tell whether another's are all here."""
        return set(self).issuperset(other)

    def _own(self) -> set[int]:
        if self._changed is None:
            self._changed = set(self._ids)
        return self._changed
