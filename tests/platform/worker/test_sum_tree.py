"""The tree in which chunk sums are added."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from atoll.clients.arrays.weighted_sum import WeightedSum
from atoll.platform.worker.sum_tree import Span, TreeSum, halves, parent_of


def chunk_sum(values: np.ndarray, *, is_writeable: bool = True) -> WeightedSum:
    values = values.copy()
    values.flags.writeable = is_writeable
    return WeightedSum({"w": values}, {"w": "float32"}, 1.0)


def by_definition(values: np.ndarray, span: Span) -> np.ndarray:
    """Return a span's sum by recursion over its halves."""
    if span[1] - span[0] == 1:
        return values[span[0]]
    left, right = halves(span)
    return by_definition(values, left) + by_definition(values, right)


def values_of(count: int, seed: int) -> np.ndarray:
    """Return numbers of all magnitudes: the order of their additions shows."""
    generator = np.random.default_rng(seed)
    return generator.normal(size=(count, 5)) * 10.0 ** generator.integers(-8, 9, (count, 5))


@settings(max_examples=60)
@given(count=st.integers(1, 40), seed=st.integers(0, 2**32 - 1), data=st.data())
def test_the_sum_has_the_same_bits_in_whatever_order_chunks_end(
    count: int, seed: int, data: st.DataObject
) -> None:
    values = values_of(count, seed)
    total = TreeSum(count)
    for index in data.draw(st.permutations(range(count))):
        is_writeable = data.draw(st.booleans())
        total.add((index, index + 1), chunk_sum(values[index], is_writeable=is_writeable))
    np.testing.assert_array_equal(total.total.arrays["w"], by_definition(values, (0, count)))
    assert total.total.weight == count


def test_the_order_of_additions_can_be_seen() -> None:
    values = values_of(16, 1)
    in_turn = np.add.reduce(values, axis=0)
    assert (by_definition(values, (0, 16)) != in_turn).any()


@pytest.mark.parametrize("count", [1, 2, 7, 10, 64])
def test_every_span_is_a_half_of_its_parent(count: int) -> None:
    spans, seen = [(0, count)], set()
    for span in spans:
        seen.add(span)
        if span[1] - span[0] > 1:
            left, right = halves(span)
            assert parent_of(left, count) == (span, right)
            assert parent_of(right, count) == (span, left)
            spans += [left, right]
    assert len(seen) == 2 * count - 1


def test_chunks_without_a_sum_change_nothing() -> None:
    values = values_of(4, 2)
    total = TreeSum(4)
    for index in (3, 1, 0, 2):
        part = WeightedSum() if index in (0, 3) else chunk_sum(values[index])
        total.add((index, index + 1), part)
    np.testing.assert_array_equal(total.total.arrays["w"], values[1] + values[2])
