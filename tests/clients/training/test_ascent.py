"""Gradient ascent on a client's loss against plain PyTorch, and the projection onto a ball."""

import copy
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import minimize
from torch import Tensor, nn

from atoll.clients.settings import ClientSettings
from atoll.clients.tasks.classification import Classification
from atoll.clients.tasks.regression import Regression
from atoll.clients.training.ascent import (
    AscentResult,
    ascend,
    ball_radius,
    default_stop,
    distance_between,
    project_onto_ball,
)
from atoll.clients.training.local_training import batches

TASK = Classification(classes=tuple("abcde"))
# Never reached: an accuracy below it does not exist.
NEVER = -1.0
SETTINGS = ClientSettings(
    learning_rate=0.05, momentum=0.9, gradient_clip=0.7, batch_size=6, epochs=3
)


def network(*, normalised: bool = False) -> nn.Module:
    torch.manual_seed(0)
    middle = [nn.BatchNorm1d(12)] if normalised else []
    return nn.Sequential(nn.Linear(8, 12), *middle, nn.Tanh(), nn.Linear(12, 5))


def examples(count: int = 20) -> tuple[Tensor, Tensor]:
    random = torch.Generator().manual_seed(3)
    inputs = torch.randn(count, 8, generator=random)
    return inputs, torch.randint(0, 5, (count,), generator=random)


def ascended(
    model: nn.Module, settings: ClientSettings = SETTINGS, stop: float = NEVER, radius=None
) -> AscentResult:
    random = torch.Generator().manual_seed(7)
    return ascend(
        model, *examples(), settings, task=TASK, generator=random, stop=stop, radius=radius
    )


def textbook(model: nn.Module, settings: ClientSettings, radius: float) -> None:
    """The algorithm with torch.optim, on vectors: ascend, clip, project."""
    inputs, labels = examples()
    optimizer = torch.optim.SGD(
        model.parameters(), settings.learning_rate, momentum=settings.momentum, maximize=True
    )
    center = nn.utils.parameters_to_vector(model.parameters()).detach().clone()
    for chosen in batches(len(labels), settings, torch.Generator().manual_seed(7)):
        optimizer.zero_grad()
        F.cross_entropy(model(inputs[chosen]), labels[chosen]).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), settings.gradient_clip or math.inf)
        optimizer.step()
        moved = nn.utils.parameters_to_vector(model.parameters()).detach() - center
        if moved.norm() > radius:
            projected = center + moved / moved.norm() * radius
            nn.utils.vector_to_parameters(projected, model.parameters())


@pytest.mark.parametrize("radius", [None, 0.4])
def test_ascent_is_the_textbooks(radius: float | None) -> None:
    mine, other = network(), network()
    done = ascended(mine, radius=radius)
    textbook(other, SETTINGS, radius or math.inf)
    for value, expected in zip(mine.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(value, expected, rtol=1e-5, atol=1e-6)
    assert done.steps == 12
    if radius is not None:
        assert done.distance == pytest.approx(radius, rel=1e-5)


@given(st.integers(0, 10_000), st.floats(0.05, 3.0))
def test_no_point_of_the_ball_is_nearer_than_the_projection(seed: int, radius: float) -> None:
    random = np.random.default_rng(seed)
    point, center = random.normal(size=4), random.normal(size=4)
    values, middle = (
        [torch.from_numpy(v[:3].copy()), torch.from_numpy(v[3:].copy())] for v in (point, center)
    )
    project_onto_ball(values, middle, radius)
    found = torch.cat(values).numpy()
    best = minimize(
        lambda x: float(np.square(x - point).sum()),
        center,
        constraints={"type": "ineq", "fun": lambda x: radius**2 - np.square(x - center).sum()},
        method="SLSQP",
        options={"ftol": 1e-14, "maxiter": 500},
    )
    assert np.linalg.norm(found - center) <= radius * (1 + 1e-9)
    np.testing.assert_allclose(found, best.x, atol=1e-4)


def test_loss_rises_and_the_threshold_ends_the_ascent() -> None:
    inputs, labels = examples()
    model = network()
    before = float(F.cross_entropy(model(inputs), labels).detach())
    free = ascended(model)
    assert float(F.cross_entropy(model(inputs), labels).detach()) > before
    model = network()
    accuracy = float((model(inputs).argmax(1) == labels).float().mean())
    stopped = ascended(model, stop=accuracy - 0.05)
    assert 0 < stopped.steps < free.steps
    assert stopped.metric <= accuracy - 0.05
    assert stopped.metric == pytest.approx(
        float((model(inputs).argmax(1) == labels).float().mean())
    )
    assert ascended(network(), stop=1.0).steps == 0


def test_of_a_task_with_errors_a_larger_one_ends_it() -> None:
    inputs, targets = torch.randn(20, 3), torch.randn(20)
    torch.manual_seed(0)
    model, random = nn.Linear(3, 1), torch.Generator().manual_seed(0)
    settings = ClientSettings(learning_rate=0.1, batch_size=5, epochs=50)
    found = ascend(model, inputs, targets, settings, task=Regression(), generator=random, stop=3.0)
    assert 0 < found.steps < 200
    assert found.metric >= 3.0


def test_running_statistics_stay_as_they_were_sent() -> None:
    model = network(normalised=True)
    before = copy.deepcopy(dict(model.named_buffers()))
    assert ascended(model).steps > 0
    for name, value in model.named_buffers():
        assert torch.equal(value, before[name])


def test_the_radius_is_a_third_of_the_mean_squared_distance() -> None:
    reference = [torch.zeros(2, 2), torch.zeros(3)]
    others = [[torch.full((2, 2), 1.0), torch.zeros(3)], [torch.zeros(2, 2), torch.full((3,), 2.0)]]
    assert ball_radius(reference, others) == pytest.approx(math.sqrt((4 + 12) / 2 / 3))
    assert distance_between(*others) == pytest.approx(4.0)


def test_only_a_classification_has_a_threshold_of_its_own() -> None:
    assert default_stop(TASK) == pytest.approx(0.24)
    assert default_stop(Regression()) is None
