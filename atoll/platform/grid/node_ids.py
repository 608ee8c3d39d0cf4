"""The ids of a federation's nodes: a set, as Flower's grids return it, without an object a node."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Reversible, Sequence, Set


class NodeIds(Set[int], Reversible[int]):
    """The ids 1 to N, which can also be indexed.

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

    def __contains__(self, node: object) -> bool:
        return node in self._known

    def __iter__(self) -> Iterator[int]:
        return iter(self._ids)

    def __len__(self) -> int:
        return len(self._ids)

    def __reversed__(self) -> Iterator[int]:
        return reversed(self._ids)

    def __getitem__(self, place: int) -> int:
        return self._ids[place]

    def __hash__(self) -> int:
        return self._hash()

    def __repr__(self) -> str:
        return f"NodeIds({len(self)})"

    @classmethod
    def _from_iterable(cls, ids: Iterable[int]) -> set[int]:  # type: ignore[override]
        return set(ids)
