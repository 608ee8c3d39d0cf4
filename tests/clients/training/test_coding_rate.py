"""BackSlash's penalty against plain autograd, and the estimated shape against scipy's draws."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from pydantic import ValidationError
from scipy.stats import gennorm

from atoll.attacks.defenses.entropy_coding import exp_golomb
from atoll.clients.training.terms.coding_rate import CodingRate, estimated_shape
from tests.support.clients.objectives import (
    settings_with,
    small_network,
    some_examples,
    train_with,
)

EXAMPLES = 17


@pytest.mark.parametrize("shape", [0.5, 1.0, 1.7, 2.0])
def test_the_shape_is_that_of_the_distribution(shape: float) -> None:
    values = gennorm.rvs(shape, scale=0.03, size=200_000, random_state=0)
    assert abs(float(estimated_shape(torch.from_numpy(values))) - shape) < 0.05


def test_values_without_a_distribution_have_a_shape_in_the_range() -> None:
    assert float(estimated_shape(torch.ones(50))) == 3.0
    spike = torch.zeros(100_000)
    spike[0] = 1.0
    assert float(estimated_shape(spike)) == pytest.approx(0.1, abs=0.1)
    assert 0.1 <= float(estimated_shape(torch.zeros(50))) <= 3.0


@pytest.mark.parametrize("shape", [None, 1.3])
def test_clients_descend_the_loss_and_the_mean_rate(shape: float | None) -> None:
    inputs, labels = some_examples(EXAMPLES)
    term = {"name": "backslash", "weight": 2.0} | ({} if shape is None else {"shape": shape})
    settings = settings_with(term, epochs=2)
    model = small_network()
    expected = copy.deepcopy(model)
    order = torch.Generator().manual_seed(0)
    shapes = np.linspace(0.1, 3.0, 291)
    for _ in range(2):
        for chosen in torch.randperm(EXAMPLES, generator=order).split(5):
            flat = torch.cat([p.reshape(-1) for p in expected.parameters()])
            now = flat.detach().double()
            ratio = float((now**2).mean() / now.abs().mean() ** 2)
            # A generalised Gaussian's second moment over its squared first absolute one.
            nearest = next(v for v in shapes[::-1] if _ratio(v) >= ratio)
            rate = ((flat.abs() + 1e-3) ** (shape or float(nearest))).mean()
            loss = F.cross_entropy(expected(inputs[chosen]), labels[chosen]) + 2.0 * rate
            gradients = torch.autograd.grad(loss, list(expected.parameters()))
            with torch.no_grad():
                for parameter, gradient in zip(expected.parameters(), gradients, strict=True):
                    parameter -= 0.1 * gradient
    train_with(model, inputs, labels, settings)
    for found, wanted in zip(model.parameters(), expected.parameters(), strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-6)


def _ratio(shape: float) -> float:
    return float(gennorm.var(shape) / gennorm.expect(abs, args=(shape,)) ** 2)


def test_a_penalised_model_takes_fewer_bits() -> None:
    inputs, labels = some_examples(EXAMPLES)
    sizes = []
    for weight in (0.0, 20.0):
        model = small_network()
        settings = settings_with({"name": "backslash", "weight": weight}, epochs=20)
        train_with(model, inputs, labels, settings)
        flat = torch.cat([p.detach().reshape(-1) for p in model.parameters()])
        sizes.append(len(exp_golomb((flat / 0.01).round().numpy())))
    assert sizes[1] < 0.9 * sizes[0]


def test_a_shape_out_of_the_range_is_refused() -> None:
    with pytest.raises(ValidationError):
        CodingRate(shape=4.0)
