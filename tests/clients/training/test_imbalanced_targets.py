"""ConR against the definition, example by example."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from torch import Tensor

from atoll.clients.settings import ClientSettings, TermSettings
from atoll.clients.tasks.classification import classes_of
from atoll.clients.tasks.regression import Regression
from atoll.clients.training.objective.named_terms import check_terms, find_terms
from atoll.clients.training.terms.imbalanced_targets import ContrastiveRegularizer
from atoll.errors import InvalidExperimentError
from tests.support.clients.objectives import settings_with, small_network, train_with

EXAMPLES = 17


def by_definition(
    features: Tensor, targets: Tensor, predicted: Tensor, term: ContrastiveRegularizer
) -> Tensor:
    """Return the loss by loops over anchors, positives and negatives."""
    z = features / features.norm(dim=1, keepdim=True)
    total = features.new_zeros(())
    for j in range(len(z)):
        others = [i for i in range(len(z)) if i != j]
        positive = [i for i in others if abs(targets[j] - targets[i]) <= term.window]
        negative = [
            i
            for i in others
            if i not in positive and abs(predicted[j] - predicted[i]) <= term.window
        ]
        if not positive or not negative:
            continue
        near = {i: torch.exp(z[j] @ z[i] / term.temperature) for i in positive}
        far = [
            math.exp(term.push * abs(float(targets[j] - targets[q])))
            * torch.exp(z[j] @ z[q] / term.temperature)
            for q in negative
        ]
        below = sum(near.values()) + sum(far)
        total = total + sum(-torch.log(value / below) for value in near.values()) / len(near)
    return total / len(z)


@pytest.mark.parametrize("window", [0.5, 2.0])
def test_the_contrast_is_its_definition(window: float) -> None:
    generator = torch.Generator().manual_seed(1)
    features = torch.randn(EXAMPLES, 5, generator=generator).double().requires_grad_()
    targets = torch.randn(EXAMPLES, generator=generator).double().mul(3)
    predicted = torch.randn(EXAMPLES, generator=generator).double().mul(2)
    term = ContrastiveRegularizer(window=window, temperature=0.3, push=0.4)
    found = term.contrast(features, targets, predicted)
    expected = by_definition(features, targets, predicted, term)
    assert float(expected.detach()) > 0.1
    torch.testing.assert_close(found, expected)
    (gradient,) = torch.autograd.grad(found, features)
    (wanted,) = torch.autograd.grad(expected, features)
    torch.testing.assert_close(gradient, wanted)


def test_without_positives_or_negatives_there_is_no_contrast() -> None:
    term, features = ContrastiveRegularizer(), torch.eye(3).requires_grad_()
    far, near = torch.tensor([0.0, 9.0, 18.0]), torch.zeros(3)
    for targets in (far, near):
        value = term.contrast(features, targets, torch.zeros(3))
        assert float(value.detach()) == 0.0
        (gradient,) = torch.autograd.grad(value, features)
        assert torch.equal(gradient, torch.zeros(3, 3))


def test_a_client_descends_the_loss_and_the_contrast_in_the_units_of_its_targets() -> None:
    generator = torch.Generator().manual_seed(2)
    inputs = torch.randn(EXAMPLES, 6, generator=generator)
    targets = 10 + 4 * torch.randn(EXAMPLES, generator=generator)
    task = Regression(center=10.0, scale=4.0)
    settings = settings_with({"name": "conr", "weight": 0.5, "window": 2.0}, epochs=2)
    model = small_network(classes=1)
    expected, plain = copy.deepcopy(model), copy.deepcopy(model)
    order = torch.Generator().manual_seed(0)
    term = ContrastiveRegularizer(window=2.0)
    for _ in range(2):
        for chosen in torch.randperm(EXAMPLES, generator=order).split(5):
            features = expected[:2](inputs[chosen])  # type: ignore[index]
            outputs = expected[2](features)  # type: ignore[index]
            predicted = (outputs * 4.0 + 10.0).squeeze(-1).detach()
            errors = outputs.squeeze(-1) - (targets[chosen] - 10.0) / 4.0
            contrast = by_definition(features, targets[chosen], predicted, term)
            loss = 0.5 * errors.square().mean() + 0.5 * contrast
            gradients = torch.autograd.grad(loss, list(expected.parameters()))
            with torch.no_grad():
                for parameter, gradient in zip(expected.parameters(), gradients, strict=True):
                    parameter -= 0.1 * gradient
    train_with(model, inputs, targets, settings, task=task)
    train_with(plain, inputs, targets, settings_with(epochs=2), task=task)
    for found, wanted, without in zip(
        model.parameters(), expected.parameters(), plain.parameters(), strict=True
    ):
        torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-6)
        assert not torch.allclose(found, without, atol=1e-4)


def test_a_classification_is_refused() -> None:
    terms = find_terms([TermSettings(name="conr")])
    with pytest.raises(InvalidExperimentError, match="'conr': it is about targets that are n"):
        check_terms(terms, classes_of(4), ClientSettings())
