"""Training units of a victim, as losses that an attacker can differentiate.

Most clients train their whole model on one loss. A client of a NoProp federation trains its layers
apart from each other: each is a unit, with a loss of its own that draws noise and times.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

from atoll.clients.noprop.block_training.block_objective import Draws
from atoll.clients.noprop.block_training.layer_training import client_unit_names
from atoll.clients.noprop.block_training.training_units import BlockUnit, HeadUnit, TrainingUnit
from atoll.clients.noprop.layer_keys import block_prefix, shared_prefix
from atoll.clients.noprop.networks.design import PartialNetwork
from atoll.clients.tasks.classification import Classification
from atoll.clients.tasks.losses import is_sigmoid
from atoll.clients.tasks.task import Task

Parameters = Mapping[str, Tensor]
Loss = Callable[[Parameters | None, Tensor, Tensor, Draws], Tensor]
WHOLE = "model"


def no_draws(count: int, generator: torch.Generator) -> Draws:
    """Return nothing: a loss without random numbers."""
    return {}


@dataclass(frozen=True)
class VictimUnit:
    """Unit of a model that a client trains by itself.

    Attributes
    ----------
    name : str
        "model", or the name of a unit of it.
    parameters : tuple[str, ...]
        The names of what it trains; where units share a parameter, each trains a copy of it and
        the client sends the mean.
    loss : Callable
        Maps parameters by name, a model's inputs (n, ...), targets (those of the task; of a
        classification int64 of shape (n,), or probabilities of shape (n, classes)) and draws to
        the mean loss. None in the place of parameters stands for the model's own, the broadcast
        ones: the faster call.
    draw : Callable
        Returns what the loss of so many examples is random in.
    fewest : int
        The examples that a batch must have; smaller ones are left out.
    """

    name: str
    parameters: tuple[str, ...]
    loss: Loss = field(repr=False)
    draw: Callable[[int, torch.Generator], Draws] = field(default=no_draws, repr=False)
    fewest: int = 1


def soft_loss(logits: Tensor, targets: Tensor) -> Tensor:
    """Return the mean cross-entropy to labels, or to probabilities of labels.

    Parameters
    ----------
    logits : Tensor
        Shape (n, classes), or (n, 1) for a sigmoid head.
    targets : Tensor
        int64 of shape (n,), or float of shape (n, classes): each row sums to 1.
    """
    if is_sigmoid(logits):
        wanted = targets[:, 1] if targets.is_floating_point() else targets.to(logits.dtype)
        return F.binary_cross_entropy_with_logits(logits.squeeze(-1), wanted)
    return F.cross_entropy(logits, targets)


def loss_of(task: Task) -> Callable[[Tensor, Tensor], Tensor]:
    """Return the mean loss of outputs and targets; a classification's labels may be soft."""
    return soft_loss if isinstance(task, Classification) else task.mean_loss


def whole_model(module: nn.Module, task: Task) -> VictimUnit:
    """Return a model that is trained as a whole on a task."""
    mean_loss = loss_of(task)

    def loss(
        parameters: Parameters | None, inputs: Tensor, targets: Tensor, draws: Draws
    ) -> Tensor:
        if parameters is None:
            return mean_loss(module(inputs), targets)
        return mean_loss(functional_call(module, dict(parameters), (inputs,)), targets)

    return VictimUnit(WHOLE, tuple(name for name, _ in module.named_parameters()), loss)


def units_of(module: nn.Module, task: Task) -> tuple[VictimUnit, ...]:
    """Return the units of a model that a client trains apart."""
    if not isinstance(module, PartialNetwork):
        return (whole_model(module, task),)
    design, shared = module.design, module.shared
    names = client_unit_names(design, module.layers)
    blocks = [
        _victim_unit(name, BlockUnit(design, index, module.block(index), shared), index)
        for name, index in zip(names, module.layers, strict=False)
    ]
    heads = [_victim_unit(name, HeadUnit(design, shared)) for name in names[len(blocks) :]]
    return tuple(blocks + heads)


class _LossOf(nn.Module):
    """A unit's loss as a module, whose parameters can be given to each call."""

    def __init__(self, unit: TrainingUnit) -> None:
        super().__init__()
        self.module = unit.module
        self._loss = unit.loss

    def forward(self, images: Tensor, targets: Tensor, draws: Draws) -> Tensor:
        return self._loss(images, targets, draws)[0]


def _victim_unit(name: str, unit: TrainingUnit, index: int = 0) -> VictimUnit:
    """Return a NoProp unit under the names that its parameters have in the network."""
    prefixes = {"shared": shared_prefix(), "block": block_prefix(index)}
    loss_of, own = _LossOf(unit), dict[str, str]()
    for key, _ in unit.module.named_parameters():
        kind, _, rest = key.partition(".")
        own[prefixes[kind] + rest] = f"module.{key}"

    def loss(
        parameters: Parameters | None, images: Tensor, targets: Tensor, draws: Draws
    ) -> Tensor:
        if parameters is None:
            return loss_of(images, targets, draws)  # type: ignore[no-any-return]
        given = {place: parameters[key] for key, place in own.items()}
        return functional_call(loss_of, given, (images, targets, draws))  # type: ignore[no-any-return]

    return VictimUnit(name, tuple(own), loss, unit.draw, unit.fewest)
