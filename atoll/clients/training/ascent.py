"""Gradient ascent on a client's loss, in a ball or free: what a client that leaves does.

Halimi, Kadhe, Rawat and Baracaldo, "Federated Unlearning: How to Efficiently Erase a Client in FL?"
(2022, arXiv 2207.05521): the client that is to be erased maximises its empirical loss over the
L2 ball of radius delta around a reference model, by projected gradient ascent, and stops early when
its accuracy has fallen to a threshold tau.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from atoll.clients.data.client_inputs import ClientInputs
from atoll.clients.settings import ClientSettings
from atoll.clients.tasks.classification import Classification
from atoll.clients.tasks.directions import direction_of
from atoll.clients.tasks.task import Task
from atoll.clients.training.evaluation import BATCH
from atoll.clients.training.gradients import gradients_of
from atoll.clients.training.local_training import UpdateRule, batches, mean_loss_of, mean_objective

# Random models whose distance to the reference model the radius is a share of, as in the released
# code.
RANDOM_MODELS = 10
# A model that guesses has one right in as many examples as there are classes; for ten classes this
# is the threshold of the paper, 0.12.
ABOVE_CHANCE = 1.2


@dataclass(frozen=True)
class AscentResult:
    """Result of a client's gradient ascent.

    Attributes
    ----------
    examples : int
        The client's examples.
    steps : int
        Steps taken.
    loss : float
        The mean loss over the examples of all steps, each before its step.
    metric : float
        The task's main metric on the client's examples, after the last step.
    distance : float
        The L2 distance of the parameters to where they began.
    """

    examples: int
    steps: int
    loss: float
    metric: float
    distance: float


def default_stop(task: Task) -> float | None:
    """Return the accuracy at which ascent stops, of a classification: 1.2 times that of guessing.

    None for other tasks.

    Examples
    --------
    >>> from atoll.clients import Classification
    >>> from atoll.clients.training.ascent import default_stop
    >>> default_stop(Classification(classes=tuple("0123456789")))
    0.12
    """
    return ABOVE_CHANCE / task.outputs if isinstance(task, Classification) else None


def distance_between(first: Sequence[Tensor], second: Sequence[Tensor]) -> float:
    """Return the L2 distance of two models' parameters.

    Examples
    --------
    >>> import torch
    >>> from atoll.clients.training.ascent import distance_between
    >>> distance_between([torch.tensor([3.0, 0.0])], [torch.tensor([0.0, 4.0])])
    5.0
    """
    differences = torch._foreach_sub(list(first), list(second))
    return math.sqrt(sum(float(d.double().square().sum()) for d in differences))


def ball_radius(reference: Sequence[Tensor], others: Sequence[Sequence[Tensor]]) -> float:
    """Return the radius of the ball: sqrt(mean of the squared distances to ``others`` / 3).

    The released code takes a third of the mean squared distance of the reference model to models
    with random parameters for the squared radius.

    Parameters
    ----------
    reference : Sequence[Tensor]
        The reference model's parameters.
    others : Sequence[Sequence[Tensor]]
        Those of random models, at least one.

    Examples
    --------
    >>> import torch
    >>> from atoll.clients.training.ascent import ball_radius
    >>> round(ball_radius([torch.zeros(3)], [[torch.ones(3)], [torch.ones(3)]]), 6)
    1.0
    """
    squares = [distance_between(reference, other) ** 2 for other in others]
    return math.sqrt(sum(squares) / len(squares) / 3)


@torch.no_grad()
def project_onto_ball(
    parameters: Sequence[Tensor], center: Sequence[Tensor], radius: float
) -> None:
    """Move parameters, in place, to the nearest point of the L2 ball around ``center``.

    Parameters
    ----------
    parameters, center : Sequence[Tensor]
        Of equal shapes.
    radius : float
        The ball's, > 0.

    Examples
    --------
    >>> import torch
    >>> from atoll.clients.training.ascent import project_onto_ball
    >>> parameters = [torch.tensor([3.0, 4.0])]
    >>> project_onto_ball(parameters, [torch.zeros(2)], radius=1.0)
    >>> parameters[0]
    tensor([0.6000, 0.8000])
    """
    distance = distance_between(parameters, center)
    if distance > radius:
        for values, middle in zip(parameters, center, strict=True):
            values.copy_(middle + (values - middle) * (radius / distance))


def ascend(
    model: nn.Module,
    inputs: ClientInputs,
    labels: Tensor,
    settings: ClientSettings,
    *,
    task: Task,
    generator: torch.Generator,
    stop: float,
    radius: float | None = None,
) -> AscentResult:
    """Train ``model`` in place to raise the loss of a client's examples.

    A step is w <- P(w + rate * gradient of the batch's mean loss), with the momentum and the
    clipping of the settings; P is the projection onto the ball around the parameters before the
    first step. After each step the task's main metric on all of the client's examples is measured;
    ascent ends when it is no better than ``stop``, or when the epochs are over. Buffers are left
    as they were: running statistics of batches would be the client's.

    Parameters
    ----------
    model : nn.Module
        Holds the model that was sent; holds the client's afterwards.
    inputs, labels
        As for :func:`~atoll.clients.training.local_training.train`.
    settings : ClientSettings
        Optimiser, learning rate, momentum, clipping, batch size, epochs, loss.
    task : Task
        Whose loss is raised, and whose main metric is measured.
    generator : torch.Generator
        Shuffles the examples.
    stop : float
        The main metric at which ascent ends.
    radius : float, optional
        The ball's; None for no projection.

    Examples
    --------
    >>> import torch
    >>> from torch import nn
    >>> from atoll.clients import Classification, ClientSettings
    >>> from atoll.clients.training.ascent import ascend
    >>> images, labels = torch.rand(8, 1, 4, 4), torch.arange(8) % 2
    >>> model = nn.Sequential(nn.Flatten(), nn.Linear(16, 2))
    >>> given = {"task": Classification(classes=("a", "b")), "generator": torch.Generator()}
    >>> settings = ClientSettings(learning_rate=0.5, epochs=9)
    >>> done = ascend(model, images, labels, settings, **given, stop=0.0, radius=0.5)
    >>> done.distance <= 0.5 + 1e-6
    True
    """
    parameters = [p for p in model.parameters() if p.requires_grad]
    start = [p.detach().clone() for p in parameters]
    buffers = {name: value.clone() for name, value in model.named_buffers()}
    update = UpdateRule(parameters, settings, settings.learning_rate)
    objective = mean_objective(model, inputs, labels, mean_loss_of(settings, task))
    is_lower_better = direction_of(task.metrics[0]) == "lower"
    total, steps, seen = 0.0, 0, 0
    metric = _main_metric(model, inputs, labels, task)
    for chosen in batches(len(labels), settings, generator):
        if metric >= stop if is_lower_better else metric <= stop:
            break
        model.train()
        loss, _ = objective(chosen)
        gradients = gradients_of(loss, parameters)
        with torch.no_grad():
            update.apply(torch._foreach_neg(list(gradients)))
        if radius is not None:
            project_onto_ball(parameters, start, radius)
        _restore(model, buffers)
        steps, seen = steps + 1, seen + len(chosen)
        total += float(loss.detach()) * len(chosen)
        metric = _main_metric(model, inputs, labels, task)
    distance = distance_between([p.detach() for p in parameters], start)
    return AscentResult(len(labels), steps, total / max(1, seen), metric, distance)


@torch.no_grad()
def _main_metric(model: nn.Module, inputs: ClientInputs, labels: Tensor, task: Task) -> float:
    """Return the task's main metric on a client's examples, in evaluation mode."""
    model.eval()
    parts = [
        task.measure(model(inputs[chosen]).cpu(), labels[chosen].cpu())
        for chosen in torch.split(torch.arange(len(labels)), BATCH)
    ]
    whole = parts[0]
    for part in parts[1:]:
        whole = whole + part
    value = task.summarise(whole)[task.metrics[0]]
    assert not isinstance(value, list)
    return float(value)


@torch.no_grad()
def _restore(model: nn.Module, buffers: dict[str, Tensor]) -> None:
    for name, value in model.named_buffers():
        value.copy_(buffers[name])
