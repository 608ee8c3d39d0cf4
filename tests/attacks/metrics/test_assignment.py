"""The Hungarian method against all permutations."""

from __future__ import annotations

from itertools import permutations

import pytest
import torch

from atoll.attacks.metrics.image_assignment import assign, squared_distances


def test_it_is_the_best_of_all_permutations() -> None:
    for seed in range(5):
        generator = torch.Generator().manual_seed(seed)
        found = torch.rand(5, 1, 2, 2, generator=generator)
        truth = torch.rand(5, 1, 2, 2, generator=generator)
        best = min(
            permutations(range(5)),
            key=lambda order: float((found[list(order)] - truth).square().sum()),
        )
        assert assign(found, truth).tolist() == list(best)


def test_a_shuffled_batch_is_put_in_order_and_spare_images_are_left_out() -> None:
    truth = torch.rand(6, 3, 4, 4)
    order = torch.randperm(6)
    spare = torch.cat([truth[order], torch.full((2, 3, 4, 4), torch.nan)])
    assert torch.equal(spare[assign(spare, truth)], truth)
    with pytest.raises(ValueError, match="2 reconstructions of 6 images"):
        assign(truth[:2], truth)


def test_distances_are_mean_squared_errors() -> None:
    a, b = torch.rand(2, 1, 3, 3), torch.rand(4, 1, 3, 3)
    wanted = torch.stack([torch.stack([(x - y).square().mean() for y in b]) for x in a])
    torch.testing.assert_close(squared_distances(a, b).float(), wanted)
