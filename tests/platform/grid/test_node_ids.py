"""The ids of a federation's nodes, with and without some that have left."""

import random

import pytest

from atoll.platform.grid.node_ids import NodeIds


@pytest.mark.parametrize("absent", [frozenset(), frozenset({1}), frozenset({2, 5}), frozenset({9})])
def test_they_are_the_set_without_those_that_left(absent: frozenset[int]) -> None:
    ids, expected = NodeIds(5, absent), [node for node in range(1, 6) if node not in absent]
    assert list(ids) == expected
    assert list(reversed(ids)) == expected[::-1]
    assert [ids[place] for place in range(len(ids))] == expected
    assert all((node in ids) is (node in expected) for node in range(7))
    assert ids == set(expected)
    # As Flower's strategies draw from them.
    assert set(random.Random(0).sample(list(ids), len(expected))) == set(expected)
