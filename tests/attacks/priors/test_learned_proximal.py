"""Learned proximal networks: a proximal map whatever the parameters, and a Laplacian's prior."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.func import jacrev

from atoll.attacks.priors.convex_network import ConvexNetwork
from atoll.attacks.priors.learned_proximal import LearnedProximal
from atoll.attacks.priors.proximal_training import ProximalSettings, ProximalTraining

pytestmark = pytest.mark.slow

SHAPES = [(5,), (1, 6, 5), (2, 4, 4)]


def network(shape: tuple[int, ...], scale: float = 1.0) -> ConvexNetwork:
    """Return a network of random parameters, negative ones among them."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        made = ConvexNetwork(shape, width=6, layers=4, beta=5.0)
        with torch.no_grad():
            for parameter in made.parameters():
                parameter.add_(scale * 0.2 * torch.randn(parameter.shape))
    return made.requires_grad_(False)


@pytest.mark.parametrize("shape", SHAPES)
def test_f_is_the_gradient_of_a_convex_function(shape: tuple[int, ...]) -> None:
    made = network(shape)
    for seed in range(3):
        example = torch.randn(shape, generator=torch.Generator().manual_seed(seed))
        with torch.enable_grad():
            jacobian: Tensor = jacrev(jacrev(lambda x: made.psi(x[None])[0]))(example)
        matrix = jacobian.reshape(example.numel(), -1)
        torch.testing.assert_close(matrix, matrix.T, rtol=1e-4, atol=1e-5)
        assert torch.linalg.eigvalsh(matrix).min() > 0
        slope = made(example[None])[0]
        step = 1e-2 * torch.randn(shape, generator=torch.Generator().manual_seed(9))
        risen = made.psi((example + step)[None]) - made.psi((example - step)[None])
        torch.testing.assert_close(risen[0], 2 * (slope * step).sum(), rtol=1e-2, atol=1e-4)


@pytest.mark.parametrize("shape", SHAPES)
def test_f_is_monotone_and_over_its_lipschitz_constant_firmly_nonexpansive(
    shape: tuple[int, ...],
) -> None:
    made = network(shape, scale=2.0)
    one, other = torch.randn(2, 40, *shape, generator=torch.Generator().manual_seed(1))
    apart, moved = (one - other).flatten(1), (made(one) - made(other)).flatten(1)
    product = (apart * moved).sum(1)
    assert (product > 0).all()
    # The largest curvature is along the segments; between them the gradient is cocoercive.
    points = one + torch.linspace(0, 1, 21).view(-1, 1, *[1] * len(shape)) * (other - one)
    with torch.enable_grad():
        hessians = torch.func.vmap(jacrev(jacrev(lambda x: made.psi(x[None])[0])))(
            points.flatten(0, 1)
        )
    size = one[0].numel()
    lipschitz = torch.linalg.eigvalsh(hessians.reshape(-1, size, size)).max()
    assert (moved.square().sum(1) <= 1.01 * lipschitz * product).all()


@pytest.mark.parametrize("shape", SHAPES)
def test_it_is_the_proximal_map_of_the_prior_that_it_reports(shape: tuple[int, ...]) -> None:
    prior = LearnedProximal(network(shape))
    generator = torch.Generator().manual_seed(0)
    examples = torch.randn(4, *shape, generator=generator)
    found = prior.prox(examples)
    torch.testing.assert_close(prior.inverse(found), examples, rtol=1e-2, atol=1e-2)
    least = 0.5 * (found - examples).flatten(1).square().sum(1) + prior.value(found)
    for size in (0.1, 0.5):
        moved = found + size * torch.randn(found.shape, generator=generator)
        higher = 0.5 * (moved - examples).flatten(1).square().sum(1) + prior.value(moved)
        assert (higher >= least - 1e-4).all()


def test_the_priors_derivative_is_that_of_its_value() -> None:
    prior = LearnedProximal(network((5,)))
    at = prior.prox(torch.randn(3, 5, generator=torch.Generator().manual_seed(4)))
    leaf = at.clone().requires_grad_()
    [gradient] = torch.autograd.grad(prior.value(leaf).sum(), leaf)
    step = 2e-2 * torch.randn(at.shape, generator=torch.Generator().manual_seed(5))
    risen = prior.value(at + step) - prior.value(at - step)
    torch.testing.assert_close(risen, 2 * (gradient * step).sum(1), rtol=3e-2, atol=2e-3)


@pytest.mark.slow
def test_proximal_matching_recovers_a_laplacians_prior() -> None:
    """Its map becomes the soft threshold, and its prior |x| (Fang et al., 2024, fig. 1)."""
    uniform = torch.rand(50_000, 1, generator=torch.Generator().manual_seed(0)) - 0.5
    examples = -uniform.sign() * torch.log1p(-2 * uniform.abs())
    settings = ProximalSettings(
        steps=700,
        batch_size=500,
        width=32,
        layers=3,
        noise=1.0,
        gamma=0.2,
        learning_rate=1e-2,
    )
    training = ProximalTraining(examples, settings)
    while training.step < settings.steps:
        training.take_step()
    prior = LearnedProximal(training.finish())
    noisy = torch.tensor([[-3.0], [-2.0], [0.0], [2.0], [3.0]])
    soft = noisy.sign() * (noisy.abs() - 1).clamp_min(0)
    assert (prior.prox(noisy) - soft).abs().max() < 0.25
    at = torch.tensor([[-2.5], [-1.0], [1.0], [2.5]])
    values = prior.value(at)
    for rise in (values[0] - values[1], values[3] - values[2]):
        assert rise == pytest.approx(1.5, abs=0.3)
