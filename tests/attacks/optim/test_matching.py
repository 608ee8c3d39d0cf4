"""Matching costs against one vector at a time."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from atoll.attacks.optim.matching import (
    COSTS,
    cosine,
    later_layers_weigh_more,
    layerwise_cosine,
    mean_squared_l2,
    on_largest,
    on_support,
    squared_l2,
    weighted,
)

SHAPES = ((4, 3), (4,), (2, 3, 2))


def updates(seed: int, candidates: int = 3) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(candidates, *shape, generator=generator) for shape in SHAPES]


def whole(tensors: list[torch.Tensor], candidate: int) -> torch.Tensor:
    return torch.cat([tensor[candidate].flatten() for tensor in tensors])


def test_each_candidate_costs_what_its_whole_vector_does() -> None:
    found, wanted = updates(0), updates(1)
    for candidate in range(3):
        u, t = whole(found, candidate), whole(wanted, candidate)
        similarity = torch.nn.functional.cosine_similarity(u, t, dim=0)
        torch.testing.assert_close(cosine(found, wanted)[candidate], 1 - similarity)
        torch.testing.assert_close(squared_l2(found, wanted)[candidate], (u - t).square().sum())
        torch.testing.assert_close(
            mean_squared_l2(found, wanted)[candidate], (u - t).square().sum() / 3
        )
        ones = [
            torch.nn.functional.cosine_similarity(
                a[candidate].flatten(), b[candidate].flatten(), dim=0
            )
            for a, b in zip(found, wanted, strict=True)
        ]
        torch.testing.assert_close(
            layerwise_cosine(found, wanted)[candidate], 1 - torch.stack(ones).mean()
        )


@pytest.mark.parametrize("cost", COSTS.values())
def test_equal_updates_cost_nothing(cost) -> None:  # type: ignore[no-untyped-def]
    torch.testing.assert_close(cost(updates(0), updates(0)), torch.zeros(3), rtol=0, atol=1e-6)


@settings(max_examples=20)
@given(st.floats(1e-3, 1e3), st.integers(0, 1000))
def test_cosine_does_not_see_scale(scale: float, seed: int) -> None:
    found, wanted = updates(seed), updates(seed + 1)
    scaled = [scale * tensor for tensor in wanted]
    torch.testing.assert_close(cosine(found, wanted), cosine(found, scaled), rtol=1e-4, atol=1e-5)


def test_weights_leave_parameters_out() -> None:
    found, wanted = updates(0), updates(1)
    only_first = weighted(squared_l2, [1.0, 0.0, 0.0])
    torch.testing.assert_close(only_first(found, wanted), squared_l2(found[:1], wanted[:1]))
    halves = weighted(squared_l2, [0.5, 0.5, 0.5])
    torch.testing.assert_close(halves(found, wanted), squared_l2(found, wanted) / 4)
    assert later_layers_weigh_more(4) == [0.25, 0.5, 0.75, 1.0]


def test_on_the_support_what_was_pruned_does_not_count() -> None:
    found, wanted = updates(0), updates(1)
    pruned = [torch.where(t.abs() > 0.7, t, 0.0) for t in wanted]
    elsewhere = [torch.where(p == 0, 100.0, f) for f, p in zip(found, pruned, strict=True)]
    for cost in (cosine, squared_l2):
        torch.testing.assert_close(
            on_support(cost)(elsewhere, pruned), on_support(cost)(found, pruned)
        )
        assert (cost(elsewhere, pruned) > on_support(cost)(elsewhere, pruned)).all()


def test_the_largest_entries_of_each_candidate_are_matched() -> None:
    target = [torch.tensor([[3.0, -4.0, 1.0, 0.0], [1.0, 2.0, -5.0, 3.0]])]
    update = [torch.tensor([[1.0, 1.0, 9.0, 9.0], [9.0, 9.0, 1.0, 1.0]])]
    half = on_largest(squared_l2, 0.5)(update, target)
    torch.testing.assert_close(half, torch.tensor([4.0 + 25.0, 36.0 + 4.0]))
    assert on_largest(squared_l2, 1.0) is squared_l2
    [least] = on_largest(squared_l2, 1e-6)([update[0][:1]], [target[0][:1]])
    torch.testing.assert_close(least, torch.tensor(25.0))
