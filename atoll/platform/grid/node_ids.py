"""The ids of a federation's nodes: a set, as Flower's grids return it, without an object a node."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Reversible, Set


class NodeIds(Set[int], Reversible[int]):
    """The ids 1 to N, which can also be indexed.

    Parameters
    ----------
    count : int
        N.
    """

    def __init__(self, count: int) -> None:
        self._ids = range(1, count + 1)

    def __contains__(self, node: object) -> bool:
        return node in self._ids

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
