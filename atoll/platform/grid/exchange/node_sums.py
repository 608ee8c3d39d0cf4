"""Sums of large models, which stay on the nodes where they were made.

A chunk's sum is left in its node's object store, and a worker of that node adds it to the one that
it belongs to in the tree (``sum_tree.py``); only what cannot be added up there crosses the network.
Each node gets chunks that lie next to each other, so that is one sum a node, or a few.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

from ray.exceptions import RayError

from atoll.platform.cluster.bounded_waits import get
from atoll.platform.worker.sum_tree import Span, TreeSum, halves, parent_of

# Workers that may die while they add up, before the driver does it.
MAX_LOST_MERGES = 4


@dataclass(frozen=True)
class LeftSum:
    """A sum that was left where it was made.

    Attributes
    ----------
    reference : object
        Ray's reference to it.
    node : str
        Where it is.
    nbytes : int
        The bytes of its arrays.
    """

    reference: Any
    node: str
    nbytes: int


@dataclass(frozen=True)
class Merge:
    """Sums on one node that add up to the sum of ``span``."""

    span: Span
    node: str
    parts: Mapping[Span, LeftSum]


@dataclass
class Traffic:
    """Bytes of sums that were made away from the driver's node, and of those that came to it."""

    made: int = 0
    moved: int = 0


@dataclass
class NodeSums:
    """The sums of an exchange that lie on nodes.

    Attributes
    ----------
    count : int
        How many chunks there are.
    here : str
        The driver's node.
    nodes : callable
        Returns the nodes that have workers.
    traffic : Traffic
        Counts what would have crossed the network, and what did.
    """

    count: int
    here: str
    nodes: Callable[[], Collection[str]]
    traffic: Traffic
    _left: dict[Span, LeftSum] = field(default_factory=dict)
    _merging: dict[Span, Merge] = field(default_factory=dict)
    _next: dict[str, int] = field(default_factory=dict)
    _lost_merges: int = 0

    @property
    def is_empty(self) -> bool:
        """Whether the driver has every sum."""
        return not self._left and not self._merging

    def add(self, span: Span, left: LeftSum) -> None:
        """Note a chunk's sum."""
        self._left[span] = left
        if left.node != self.here:
            self.traffic.made += left.nbytes

    # --- which chunks a node gets --------------------------------------------------------------

    def choose(self, waiting: Collection[int], node: str) -> int:
        """Return which of the ``waiting`` chunks a node is to have next.

        This is the one after its last. Where that is taken (and at first), it is in the longest
        run of chunks that no node has: at a place where the tree divides it, so that the node
        with the chunk before the run can continue too.
        """
        chosen = self._next.get(node)
        if chosen is None or chosen not in waiting:
            start, stop = max(_runs(waiting), key=lambda run: (run[1] - run[0], -run[0]))
            is_anybody_s = start in self._next.values()
            chosen = self._division(start, stop) if is_anybody_s else start
        self._next[node] = chosen + 1
        return chosen

    def _division(self, start: int, stop: int) -> int:
        """Return where the tree divides the chunks from ``start`` to ``stop``, highest up."""
        span = (0, self.count)
        while stop - start > 1:
            left, right = halves(span)
            if start < right[0] < stop:
                return right[0]
            span = left if stop <= right[0] else right
        return start

    # --- sums added up where they are ----------------------------------------------------------

    def next_merge(self, node: str) -> Merge | None:
        """Take sums that a node has and can add up."""
        if self._lost_merges >= MAX_LOST_MERGES:
            return None
        for span, left in self._left.items():
            if left.node == node:
                top = self._highest(span, node)
                if top != span:
                    parts = {part: self._left[part] for part in self._cover(top, node)}
                    for part in parts:
                        del self._left[part]
                    self._merging[top] = Merge(top, node, parts)
                    return self._merging[top]
        return None

    def can_merge(self) -> bool:
        """Tell whether there is a node with workers that can add up what it has."""
        if self._lost_merges >= MAX_LOST_MERGES:
            return False
        nodes = self.nodes()
        return any(
            left.node in nodes and self._highest(span, left.node) != span
            for span, left in self._left.items()
        )

    def _highest(self, span: Span, node: str) -> Span:
        """Return the largest span that a node can make of this one and others that it has."""
        while span != (0, self.count):
            parent, sibling = parent_of(span, self.count)
            if not self._cover(sibling, node):
                break
            span = parent
        return span

    def _cover(self, span: Span, node: str) -> list[Span]:
        """Return the spans that make up this one and lie on a node; none if some are missing."""
        left = self._left.get(span)
        if left is not None:
            return [span] if left.node == node else []
        if span[1] - span[0] == 1:
            return []
        first, second = (self._cover(half, node) for half in halves(span))
        return first + second if first and second else []

    def merged(self, merge: Merge, reference: Any, nbytes: int) -> None:
        """Note the sum of a merge; its parts are not needed any more."""
        del self._merging[merge.span]
        self._left[merge.span] = LeftSum(reference, merge.node, nbytes)

    def give_back(self, merge: Merge, *, lost: bool = False) -> None:
        """Take back a merge that came to nothing, by the death of a worker if it is ``lost``."""
        self._left.update(self._merging.pop(merge.span).parts)
        self._lost_merges += lost

    def give_back_all(self) -> None:
        """Take back all merges that are under way."""
        for merge in list(self._merging.values()):
            self.give_back(merge)

    # --- what is left to the driver ------------------------------------------------------------

    def fetch(self, total: TreeSum) -> list[Span]:
        """Add the sums on all nodes to the driver's total.

        Returns
        -------
        list[Span]
            The spans whose sums were lost with their node.
        """
        lost = []
        for span in sorted(self._left):
            left = self._left.pop(span)
            try:
                part = get(left.reference)
            except RayError:
                lost.append(span)
                continue
            total.add(span, part)
            if left.node != self.here:
                self.traffic.moved += left.nbytes
        return lost


def _runs(numbers: Collection[int]) -> list[tuple[int, int]]:
    """Return the runs of consecutive numbers, each as its start and its end."""
    runs: list[tuple[int, int]] = []
    for number in sorted(numbers):
        if runs and runs[-1][1] == number:
            runs[-1] = (runs[-1][0], number + 1)
        else:
            runs.append((number, number + 1))
    return runs
