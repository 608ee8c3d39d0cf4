"""Metrics of rows and sequences, by brute force and by hand."""

from __future__ import annotations

import itertools
from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from atoll.attacks.metrics.table_cells import TableMetrics, cells_right
from atoll.attacks.metrics.token_overlap import TokenMetrics, rouge
from atoll.clients.data.inputs.tokens import TokenInputs
from tests.support.attacks.other_kinds import TABLE

NAN = float("nan")


def test_numbers_are_right_within_the_tolerance_of_the_paper() -> None:
    truth = torch.tensor([50.0, 2.0, 3.0, 1.0], dtype=torch.float64)
    near = torch.tensor([53.19, 2.0, 3.638, 1.0], dtype=torch.float64)
    far = torch.tensor([53.2, 1.0, 3.639, 0.0], dtype=torch.float64)
    assert cells_right(TABLE, near, truth).all()
    assert not cells_right(TABLE, far, truth).any()


def test_a_missing_number_is_right_where_it_is_missing() -> None:
    truth = torch.tensor([[50.0, 2.0, NAN, 1.0], [50.0, 2.0, 3.0, 1.0]], dtype=torch.float64)
    found = torch.tensor([[50.0, 2.0, NAN, 1.0], [50.0, 2.0, NAN, 1.0]], dtype=torch.float64)
    assert cells_right(TABLE, found, truth)[:, 2].tolist() == [True, False]


def test_rows_are_matched_with_the_fewest_wrong_cells() -> None:
    generator = torch.Generator().manual_seed(3)
    rows = torch.randint(0, 3, (5, 4), generator=generator).double()
    truth = torch.randint(0, 3, (5, 4), generator=generator).double()
    metrics = TableMetrics(TABLE, torch.empty(0, 4))
    order = metrics.assign(rows, truth)
    right = cells_right(TABLE, rows[order], truth).sum()
    best = max(
        cells_right(TABLE, rows[list(some)], truth).sum()
        for some in itertools.permutations(range(5))
    )
    assert right == best
    assert sorted(order.tolist()) == list(range(5))


def test_the_most_certain_cells_are_those_of_least_entropy() -> None:
    truth = torch.tensor([[50.0, 2.0, 3.0, 1.0]] * 2, dtype=torch.float64)
    found = truth.clone()
    found[1] += 100
    entropy = torch.tensor([[0.1] * 4, [0.9] * 4], dtype=torch.float64)
    metrics = TableMetrics(TABLE, truth[:0])
    assert metrics.columns(found, truth, entropy)["trusted_accuracy"] == [1.0, 1.0]
    assert metrics.columns(found, truth, 1 - entropy)["trusted_accuracy"] == [0.0, 0.0]
    assert metrics.columns(found, truth, None)["trusted_accuracy"] == [None, None]


def test_a_row_is_identified_if_no_other_is_as_near() -> None:
    truth = torch.tensor([[50.0, 2.0, 3.0, 1.0]], dtype=torch.float64)
    near, far = truth.clone(), truth + 1
    near[0, 0] = 51.0
    metrics = TableMetrics(TABLE, far)
    assert metrics.columns(near, truth, None)["identified"] == [True]
    assert metrics.columns(far, truth, None)["identified"] == [False]


@given(
    st.lists(st.integers(0, 3), max_size=8),
    st.lists(st.integers(0, 3), max_size=8),
    st.integers(1, 3),
)
def test_rouge_is_the_f_measure_of_shared_n_grams(
    found: list[int], truth: list[int], size: int
) -> None:
    def grams(tokens: list[int]) -> list[tuple[int, ...]]:
        return [tuple(tokens[k : k + size]) for k in range(len(tokens) - size + 1)]

    first, second = grams(found), grams(truth)
    left, shared = Counter(second), 0
    for gram in first:
        if left[gram] > 0:
            left[gram] -= 1
            shared += 1
    score = rouge(found, truth, size)
    assert 0.0 <= score <= 1.0
    assert score == rouge(truth, found, size)
    if shared:
        assert score == pytest.approx(2 * shared / (len(first) + len(second)))
    else:
        assert score == float(not first and not second and found == truth)


def test_sequences_are_compared_place_by_place_without_their_padding() -> None:
    inputs = TokenInputs(length=5, vocabulary=9)
    truth = torch.tensor([[1, 2, 3, 4, 0], [5, 6, 0, 0, 0]])
    found = torch.tensor([[5, 7, 8, 0, 0], [1, 2, 4, 3, 0]])
    metrics = TokenMetrics(inputs, torch.tensor([[5, 7, 1, 0, 0]]))
    order = metrics.assign(found, truth)
    assert order.tolist() == [1, 0]
    columns = metrics.columns(found[order], truth, None)
    assert columns["token_accuracy"] == [0.5, 0.5]
    assert columns["rouge1"] == [1.0, pytest.approx(0.4)]
    assert columns["rouge2"] == [pytest.approx(1 / 3), 0.0]
    assert columns["exact_match"] == [False, False]
    assert columns["identified"] == [True, False]
    np.testing.assert_array_equal(metrics.columns(truth, truth, None)["exact_match"], [True, True])
