"""Priors without training: their proximal maps against brute force and closed forms."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from atoll.attacks.priors.closed_form import Gaussian, TotalVariation
from atoll.attacks.priors.prior import Prior
from atoll.errors import AttackError


def _priors() -> list[tuple[Prior, tuple[int, ...]]]:
    public = torch.randn(40, 6, generator=torch.Generator().manual_seed(1)) * 2
    return [
        (TotalVariation(0.2), (1, 4, 3)),
        (Gaussian(public, 0.5), (6,)),
        (Gaussian(public.view(40, 1, 2, 3), 3.0), (1, 2, 3)),
    ]


def _objective(prior: Prior, at: Tensor, examples: Tensor) -> Tensor:
    return 0.5 * (at - examples).flatten(1).square().sum(1) + prior.value(at)


@pytest.mark.parametrize(("prior", "shape"), _priors())
def test_the_proximal_map_is_the_minimum(prior: Prior, shape: tuple[int, ...]) -> None:
    generator = torch.Generator().manual_seed(0)
    examples = torch.randn(5, *shape, generator=generator)
    found = prior.prox(examples)
    least = _objective(prior, found, examples)
    for size in (1e-3, 1e-2, 1e-1):
        for _ in range(50):
            moved = found + size * torch.randn(found.shape, generator=generator)
            assert (_objective(prior, moved, examples) >= least - 1e-6).all()


@pytest.mark.parametrize(("prior", "shape"), _priors())
def test_the_proximal_map_of_a_convex_prior_is_firmly_nonexpansive(
    prior: Prior, shape: tuple[int, ...]
) -> None:
    one, other = torch.randn(2, 30, *shape, generator=torch.Generator().manual_seed(2))
    moved = (prior.prox(one) - prior.prox(other)).flatten(1)
    assert (moved.square().sum(1) <= (moved * (one - other).flatten(1)).sum(1) + 1e-5).all()


def test_total_variation_of_two_pixels_shrinks_their_difference() -> None:
    images = torch.tensor([[[[0.0, 1.0]]], [[[0.0, 0.1]]]])
    wanted = torch.tensor([[[[0.2, 0.8]]], [[[0.05, 0.05]]]])
    torch.testing.assert_close(TotalVariation(0.2).prox(images), wanted)


def test_a_gaussians_value_is_its_negative_log_likelihood() -> None:
    public = torch.randn(500, 3, generator=torch.Generator().manual_seed(3)) @ torch.randn(3, 3)
    prior = Gaussian(public, 1.0)
    at = torch.tensor([[0.5, -1.0, 2.0], [0.0, 0.0, 0.0]], dtype=torch.float64)
    covariance = torch.cov(public.double().T)
    ridge = 1e-2 * covariance.trace() / 3 * torch.eye(3)
    normal = torch.distributions.MultivariateNormal(public.double().mean(0), covariance + ridge)
    wanted = -(normal.log_prob(at)[0] - normal.log_prob(at)[1])
    value = prior.value(at.float())
    torch.testing.assert_close((value[0] - value[1]).double(), wanted, rtol=1e-4, atol=1e-4)
    with pytest.raises(AttackError, match="there are 1 public examples; expected two"):
        Gaussian(public[:1], 1.0)
