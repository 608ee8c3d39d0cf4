"""Noise of central privacy: fresh each round, or of a tree of sums (DP-FTRL)."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from atoll.randomness import derive_seed

Shapes = Mapping[str, tuple[int, ...]]
Noise = dict[str, NDArray[np.float64]]


def fresh_noise(shapes: Shapes, deviation: float, server_round: int, seed: int) -> Noise:
    """Return Gaussian noise of a round, independent of other rounds'.

    Parameters
    ----------
    shapes : Mapping
        Shapes of arrays by name.
    deviation : float
        Of each value.
    server_round, seed : int
        What the noise depends on, beside the shapes.
    """
    return _normal(shapes, deviation, derive_seed(seed, "central noise", server_round))


def tree_noise(
    shapes: Shapes, deviation: float, server_round: int, rounds_per_epoch: int, seed: int
) -> Noise:
    """Return the noise by which a round changes that of the sum so far.

    The sum over an epoch's rounds has the noise of the nodes of a binary tree that make it up: one
    node for each binary digit of their number that is 1 (Kairouz et al., "Practical and Private
    (Deep) Learning without Sampling or Shuffling", 2021, section 4.1). Each epoch has a tree of its
    own. A node's noise depends on its place and the seed alone.

    Parameters
    ----------
    shapes, deviation, server_round, seed
        As of :func:`fresh_noise`; ``deviation`` is a node's.
    rounds_per_epoch : int
        Leaves of a tree.
    """
    epoch, before = divmod(server_round - 1, rounds_per_epoch)
    gone, come = _nodes(before), _nodes(before + 1)
    total: Noise = {name: np.zeros(shape) for name, shape in shapes.items()}
    for sign, nodes in ((1.0, come - gone), (-1.0, gone - come)):
        for level, place in sorted(nodes):
            of_node = derive_seed(seed, "tree noise", epoch, level, place)
            for name, values in _normal(shapes, deviation, of_node).items():
                total[name] += sign * values
    return total


def _nodes(leaves: int) -> set[tuple[int, int]]:
    """Return the nodes, as (level, place), whose sums make up that of the first ``leaves``."""
    found, start = set(), 0
    for level in reversed(range(leaves.bit_length())):
        if leaves >> level & 1:
            found.add((level, start >> level))
            start += 1 << level
    return found


def _normal(shapes: Shapes, deviation: float, seed: int) -> Noise:
    generator = np.random.default_rng(seed)
    return {name: deviation * generator.standard_normal(shape) for name, shape in shapes.items()}
