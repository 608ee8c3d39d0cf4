"""The ids of a federation's nodes, with and without some that have left."""

import random
from collections.abc import Callable
from typing import Any

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


ANSWERS: list[Callable[[Any], object]] = [
    lambda ids: ids.copy(),
    lambda ids: ids.union([7], {2}),
    lambda ids: ids.intersection([1, 2, 9]),
    lambda ids: ids.difference([1], [2]),
    lambda ids: ids.symmetric_difference([1, 9]),
    lambda ids: (ids.issubset(range(9)), ids.issuperset([1]), ids.isdisjoint([9])),
    lambda ids: (ids - {1}, ids | {9}, ids & {1, 9}, ids ^ {1, 9}, {1, 9} - ids),
]
CHANGES: list[Callable[[Any], object]] = [
    lambda ids: ids.add(9),
    lambda ids: ids.discard(2),
    lambda ids: ids.remove(3),
    lambda ids: ids.update([7], {8}),
    lambda ids: ids.difference_update([1], [2]),
    lambda ids: ids.intersection_update([1, 2, 9]),
    lambda ids: ids.symmetric_difference_update([1, 9]),
    lambda ids: ids.clear(),
]


@pytest.mark.parametrize("absent", [frozenset(), frozenset({2})])
@pytest.mark.parametrize("answer", ANSWERS)
def test_it_answers_as_a_set(absent: frozenset[int], answer: Callable[[Any], object]) -> None:
    ids = NodeIds(5, absent)
    assert answer(ids) == answer(set(ids))


@pytest.mark.parametrize("change", CHANGES)
def test_it_changes_as_a_set_does(change: Callable[[Any], object]) -> None:
    ids, plain = NodeIds(5), set(range(1, 6))
    change(ids)
    change(plain)
    assert ids == plain
    assert sorted(plain) == list(reversed(list(reversed(ids))))
    assert [ids[place] for place in range(len(ids))] == sorted(plain)
    assert {ids.pop() for _ in range(len(ids))} == plain
    with pytest.raises(KeyError):
        ids.pop()
