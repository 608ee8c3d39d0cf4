"""Epoch of a training unit: one loop for layer-wise runs and federations."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor

from atoll.clients.noprop.block_training.block_objective import Draws
from atoll.clients.noprop.block_training.example_source import ExampleSource
from atoll.clients.noprop.block_training.training_units import TrainingUnit
from atoll.clients.settings import ClientSettings
from atoll.clients.training.gradients import gradients_of
from atoll.clients.training.local_training import UpdateRule, batches


@dataclass(frozen=True)
class EpochResult:
    """Result of an epoch.

    Attributes
    ----------
    loss : float
        The mean, over the examples of all steps, of the value that the unit reports.
    examples : int
        Examples that steps were taken on.
    steps : int
        Optimiser steps.
    optimizer : dict
        The optimiser's state.
    """

    loss: float
    examples: int
    steps: int
    optimizer: dict[str, Any] = field(repr=False)


class Drawing(Protocol):
    """Source of the random numbers of a step: a unit, or what stands for one."""

    @property
    def fewest(self) -> int:
        """The examples that a batch must have."""

    def draw(self, count: int, generator: torch.Generator, /) -> Draws:
        """Return the random numbers that the loss of ``count`` examples depends on."""


def steps_of(
    unit: Drawing, count: int, client: ClientSettings, generator: torch.Generator
) -> Iterator[tuple[Tensor, Draws]]:
    """Yield the examples of each step of an epoch, and the random numbers of its loss.

    Parameters
    ----------
    unit : Drawing
        What is trained.
    count : int
        Examples that there are.
    client : ClientSettings
        ``[client]``.
    generator : torch.Generator
        Shuffles and draws.
    """
    fewest = unit.fewest
    for chosen in batches(count, client, generator):
        if len(chosen) >= fewest:
            yield chosen, unit.draw(len(chosen), generator)


def train_epoch(
    unit: TrainingUnit,
    examples: ExampleSource,
    client: ClientSettings,
    *,
    learning_rate: float,
    generator: torch.Generator,
    optimizer: dict[str, Any] | None = None,
    proximal_mu: float | None = None,
) -> EpochResult:
    """Train a unit in place: ``client.epochs`` passes over the examples, or ``client.steps``.

    Parameters
    ----------
    unit : TrainingUnit
        The unit.
    examples : ExampleSource
        What it learns from.
    client : ClientSettings
        ``[client]``.
    learning_rate : float
        Of this epoch.
    generator : torch.Generator
        Shuffles the examples and draws noise and times; dropout draws from the global generator.
    optimizer : dict, optional
        The optimiser's state after the epoch before; by default a new one.
    proximal_mu : float, optional
        The weight of FedProx's term; by default that of the settings.

    Returns
    -------
    EpochResult
        With the optimiser's state. A batch of one example is left out where BatchNorm could make
        nothing of it.
    """
    unit.module.train()
    parameters = [p for p in unit.module.parameters() if p.requires_grad]
    update = UpdateRule(parameters, client, learning_rate, proximal_mu)
    if optimizer is not None:
        update.load_state_dict(optimizer)
    total = torch.zeros((), dtype=torch.float64)
    seen = steps = 0
    no_images = torch.empty(0)
    for chosen, draws in steps_of(unit, len(examples), client, generator):
        images = examples.images(chosen) if unit.uses_images else no_images
        loss, reported = unit.loss(images, examples.labels(chosen), draws)
        gradients = gradients_of(loss, parameters)
        with torch.no_grad():
            update.apply(gradients)
            total += reported.detach().cpu() * len(chosen)
        seen += len(chosen)
        steps += 1
    return EpochResult(float(total) / max(1, seen), seen, steps, update.state_dict())
