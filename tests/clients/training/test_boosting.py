"""Stages of gradient boosting against plain loops, and what they leave as it is."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from atoll.clients.models.model_building import build_model
from atoll.clients.settings import ModelSettings
from atoll.clients.tasks.classification import classes_of
from atoll.clients.tasks.regression import Regression
from atoll.clients.training.terms.boosting import GradientBoosting
from tests.support.clients.objectives import settings_with, train_with

EXAMPLES, CLASSES = 17, 3
TERM = {"name": "gradient-boosting", "stages": 4, "step": 0.7}
ROUNDS = 9


def boosted(outputs: int = CLASSES) -> nn.Module:
    settings = ModelSettings(name="boosted-mlp", hidden=8)  # type: ignore[call-arg]
    return build_model(settings, (1, 2, 3), outputs, seed=1)


def examples() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(EXAMPLES, 1, 2, 3, generator=generator)
    return images, torch.randint(0, CLASSES, (EXAMPLES,), generator=generator)


def plan() -> list[Tensor]:
    order = torch.Generator().manual_seed(0)
    return [c for _ in range(2) for c in torch.randperm(EXAMPLES, generator=order).split(5)]


def test_rounds_are_cut_into_stages_after_the_constant() -> None:
    term = GradientBoosting(stages=4)
    assert [term.stage(number, 9) for number in range(1, 10)] == [0, 1, 1, 2, 2, 3, 3, 4, 4]
    assert [term.stage(number, 3) for number in range(1, 4)] == [0, 1, 3]


def test_a_stage_fits_what_the_earlier_ones_left() -> None:
    images, labels = examples()
    settings = settings_with(TERM, epochs=2, learning_rate=0.3)
    model = boosted()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(0.5 * torch.randn(parameter.shape, generator=torch.Generator()))
    expected, before = copy.deepcopy(model), copy.deepcopy(model)
    # The sixth of nine rounds: the third of four groups, neurons 4 and 5.
    train_with(
        model, images, labels, settings, task=classes_of(CLASSES), server_round=6, num_rounds=ROUNDS
    )
    hidden, head = expected[1], expected[3]  # type: ignore[index]
    for chosen in plan():
        features = torch.tanh(hidden(images[chosen].flatten(1)))
        own = features[:, 4:6] @ head.weight[:, 4:6].T
        others = head(features).detach() - own.detach()
        left = F.one_hot(labels[chosen], CLASSES) - others.softmax(-1)
        loss = 0.5 * ((own - 0.7 * left) ** 2).sum(1).mean()
        parts = [hidden.weight, hidden.bias, head.weight]
        gradients = torch.autograd.grad(loss, parts)
        with torch.no_grad():
            hidden.weight[4:6] -= 0.3 * gradients[0][4:6]
            hidden.bias[4:6] -= 0.3 * gradients[1][4:6]
            head.weight[:, 4:6] -= 0.3 * gradients[2][:, 4:6]
    for found, wanted in zip(model.parameters(), expected.parameters(), strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-6)
    rest = [0, 1, 2, 3, 6, 7]
    assert torch.equal(model[1].weight[rest], before[1].weight[rest])  # type: ignore[index]
    assert torch.equal(model[3].weight[:, rest], before[3].weight[:, rest])  # type: ignore[index]
    assert torch.equal(model[3].bias, before[3].bias)  # type: ignore[index]


def test_the_first_round_trains_a_constant() -> None:
    images, labels = examples()
    settings = settings_with(TERM, epochs=40, learning_rate=0.5, batch_size=EXAMPLES)
    model = boosted()
    before = copy.deepcopy(model)
    train_with(model, images, labels, settings, task=classes_of(CLASSES), num_rounds=ROUNDS)
    shares = torch.bincount(labels, minlength=CLASSES) / EXAMPLES
    torch.testing.assert_close(model(images)[0].softmax(-1), shares, atol=1e-3, rtol=0)
    assert torch.equal(model[1].weight, before[1].weight)  # type: ignore[index]


@pytest.mark.parametrize("is_regression", [False, True])
def test_each_stage_lowers_the_loss(is_regression: bool) -> None:
    images, labels = examples()
    targets = images.flatten(1).sum(1) if is_regression else labels
    task = Regression() if is_regression else classes_of(CLASSES)
    model = boosted(1 if is_regression else CLASSES) if not is_regression else _of_one_output()
    settings = settings_with(TERM, epochs=60, learning_rate=0.2, batch_size=EXAMPLES)
    losses = [float(task.mean_loss(model(images), targets).detach())]
    for number in range(1, 6):
        train_with(model, images, targets, settings, task=task, server_round=number, num_rounds=5)
        losses.append(float(task.mean_loss(model(images), targets).detach()))
    assert losses == sorted(losses, reverse=True)
    assert losses[-1] < 0.6 * losses[0]


def _of_one_output() -> nn.Module:
    model = boosted(2)
    model[3] = nn.Linear(8, 1)  # type: ignore[operator]
    nn.init.zeros_(model[3].weight)  # type: ignore[index]
    return model
