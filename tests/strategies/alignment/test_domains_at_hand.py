"""Domains of examples at hand: their moments and penalties, against plain autograd."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from atoll.clients import Gradient, HeadGradient, Loss, ModelSettings, build_model
from atoll.strategies import Domains, GradientAlignment, VREx

Examples = dict[str, tuple[Tensor, Tensor]]


@pytest.fixture
def model() -> nn.Module:
    return build_model(ModelSettings(name="mlp"), (1, 8, 8), 10, seed=0).double()


@pytest.fixture
def examples() -> Examples:
    generator = torch.Generator().manual_seed(0)
    return {
        name: (
            torch.rand(n, 1, 8, 8, generator=generator).double(),
            torch.randint(0, 10, (n,), generator=generator),
        )
        for name, n in (("a", 7), ("b", 3))
    }


def _gradients(model: nn.Module, examples: Examples) -> list[Tensor]:
    found = []
    for images, labels in examples.values():
        loss = F.cross_entropy(model(images), labels)
        parts = torch.autograd.grad(loss, list(model.parameters()))
        found.append(torch.cat([part.reshape(-1) for part in parts]))
    return found


def test_moments_are_those_of_autograd(model: nn.Module, examples: Examples) -> None:
    domains = Domains.of_model(model, examples)
    losses, gradients, heads = domains.moments(Loss(), Gradient(), HeadGradient())
    expected = [F.cross_entropy(model(images), labels) for images, labels in examples.values()]
    assert torch.allclose(losses, torch.stack(expected), atol=1e-12)
    flat = torch.stack(_gradients(model, examples))
    assert torch.allclose(gradients, flat, atol=1e-12)
    # The head is the last layer; its gradient is laid out output by output, weights then bias.
    head = list(model.parameters())[-2:]
    size = sum(parameter.numel() for parameter in head)
    weights, bias = flat[:, -size:].split([head[0].numel(), head[1].numel()], 1)
    expected_heads = torch.cat([weights.view(2, *head[0].shape), bias[:, :, None]], 2)
    assert torch.allclose(heads, expected_heads.reshape(2, -1), atol=1e-12)


@pytest.mark.parametrize("weighting", ["uniform", "examples"])
def test_penalties_weigh_domains_as_asked(
    model: nn.Module, examples: Examples, weighting: str
) -> None:
    domains = Domains.of_model(model, examples, weighting)  # type: ignore[arg-type]
    shares = torch.tensor([0.5, 0.5] if weighting == "uniform" else [0.7, 0.3], dtype=torch.float64)
    losses = torch.stack([F.cross_entropy(model(x), y) for x, y in examples.values()])
    expected = shares @ (losses - shares @ losses).square()
    assert VREx().penalty(domains).item() == pytest.approx(expected.item(), rel=1e-10)


def test_domains_that_are_the_same_have_no_penalty(model: nn.Module, examples: Examples) -> None:
    same = Domains.of_model(model, {"a": examples["a"], "b": examples["a"]})
    assert GradientAlignment().penalty(same).item() == 0.0


def test_a_model_without_a_head_is_refused() -> None:
    with pytest.raises(ValueError, match="no head"):
        Domains.of_model(nn.Flatten(), {"a": (torch.rand(2, 4), torch.zeros(2).long())})
