"""Training one part for an epoch: the loop that all parts share, alone or in a federation."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from atoll.clients.noprop.examples import Examples
from atoll.clients.noprop.parts import Part
from atoll.clients.settings import ClientSettings
from atoll.clients.training import UpdateRule, batches, gradients_of


@dataclass(frozen=True)
class EpochResult:
    """What came of an epoch.

    Attributes
    ----------
    loss : float
        The mean, over the examples of all steps, of the value that the part reports.
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


def train_epoch(
    part: Part,
    examples: Examples,
    client: ClientSettings,
    *,
    learning_rate: float,
    generator: torch.Generator,
    optimizer: dict[str, Any] | None = None,
    proximal_mu: float | None = None,
) -> EpochResult:
    """Train a part in place: ``client.epochs`` passes over the examples, or ``client.steps``.

    Parameters
    ----------
    part : Part
        The part.
    examples : Examples
        What it learns from.
    client : ClientSettings
        ``[client]``.
    learning_rate : float
        Of this epoch.
    generator : torch.Generator
        Shuffles the examples and draws noise and times; dropout draws from the global generator.
    optimizer : dict, optional
        The optimiser's state after the epoch before; by default it begins anew.
    proximal_mu : float, optional
        The weight of FedProx's term; by default that of the settings.

    Returns
    -------
    EpochResult
        With the optimiser's state. A batch of one example is left out where BatchNorm could make
        nothing of it.
    """
    part.module.train()
    parameters = [p for p in part.module.parameters() if p.requires_grad]
    update = UpdateRule(parameters, client, learning_rate, proximal_mu)
    if optimizer is not None:
        update.load_state_dict(optimizer)
    fewest = 2 if _has_batch_norm(part.module) else 1
    total = torch.zeros((), dtype=torch.float64)
    seen = steps = 0
    no_images = torch.empty(0)
    for chosen in batches(len(examples), client, generator):
        if len(chosen) < fewest:
            continue
        images = examples.images(chosen) if part.uses_images else no_images
        loss, reported = part.loss(images, examples.labels(chosen), generator)
        gradients = gradients_of(loss, parameters)
        with torch.no_grad():
            update.apply(gradients)
            total += reported.detach().cpu() * len(chosen)
        seen += len(chosen)
        steps += 1
    return EpochResult(float(total) / max(1, seen), seen, steps, update.state_dict())


def _has_batch_norm(module: nn.Module) -> bool:
    return any(isinstance(inner, nn.modules.batchnorm._BatchNorm) for inner in module.modules())
