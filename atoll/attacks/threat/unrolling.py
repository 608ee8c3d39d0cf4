"""Steps of a client's optimiser as a differentiable function of what it trains on.

They are those of :class:`~atoll.clients.training.local_training.UpdateRule`, which changes
parameters in place and cannot be differentiated.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Protocol

import torch
from torch import Tensor

from atoll.attacks.threat.observation import LocalTraining
from atoll.clients.noprop.block_training.block_objective import Draws
from atoll.clients.settings import ClientSettings
from atoll.clients.training.optimizers import BETA_1, BETA_2, EPSILON

Tensors = dict[str, Tensor]


class _Rule(Protocol):
    """Optimiser with its state: parameters and gradients in, parameters out."""

    def __call__(self, parameters: Tensors, gradients: Tensors) -> Tensors: ...


class _SGD:
    """SGD with momentum and weight decay, as ``torch.optim.SGD``."""

    def __init__(self, learning_rate: float, settings: ClientSettings) -> None:
        self._rate, self._settings = learning_rate, settings
        self._momenta: Tensors = {}

    def __call__(self, parameters: Tensors, gradients: Tensors) -> Tensors:
        decay, momentum = self._settings.weight_decay, self._settings.momentum
        if decay:
            gradients = {key: g + decay * parameters[key] for key, g in gradients.items()}
        if momentum:
            if self._momenta:
                gradients = {key: g + momentum * self._momenta[key] for key, g in gradients.items()}
            self._momenta = gradients
        return {key: p - self._rate * gradients[key] for key, p in parameters.items()}


class _Adam:
    """Adam and AdamW, as ``torch.optim`` has them."""

    def __init__(self, learning_rate: float, settings: ClientSettings, epsilon: float) -> None:
        self._rate, self._settings, self._epsilon = learning_rate, settings, epsilon
        self._steps = 0
        self._first: Tensors = {}
        self._second: Tensors = {}

    def __call__(self, parameters: Tensors, gradients: Tensors) -> Tensors:
        decay = self._settings.weight_decay
        if decay and self._settings.optimizer == "adamw":
            parameters = {key: p * (1 - self._rate * decay) for key, p in parameters.items()}
        elif decay:
            gradients = {key: g + decay * parameters[key] for key, g in gradients.items()}
        self._steps += 1
        first, second = self._first, self._second
        self._first = {
            key: (1 - BETA_1) * g + (BETA_1 * first[key] if first else 0.0)
            for key, g in gradients.items()
        }
        self._second = {
            key: (1 - BETA_2) * g.square() + (BETA_2 * second[key] if second else 0.0)
            for key, g in gradients.items()
        }
        scale = (1 - BETA_2**self._steps) ** 0.5
        size = self._rate / (1 - BETA_1**self._steps)
        return {
            key: p - size * self._first[key] / (_root(self._second[key]) / scale + self._epsilon)
            for key, p in parameters.items()
        }


def unrolled(
    gradient_of: Callable[..., Mapping[str, Tensor]],
    start: Tensors,
    steps: Iterable[tuple[Tensor, Tensor, Draws]],
    training: LocalTraining,
    adam_epsilon: float = EPSILON,
) -> Tensors:
    """Return the parameters after a client's steps, differentiable by their inputs.

    The first step of Adam moves each parameter by the learning rate, in the direction of the
    gradient's sign: its derivative is small where the gradient is larger than Adam's epsilon.

    Parameters
    ----------
    gradient_of : callable
        The gradients by name, of parameters, inputs, targets and draws.
    start : dict[str, Tensor]
        The broadcast parameters.
    steps : Iterable[tuple[Tensor, Tensor, Draws]]
        Inputs, targets and draws of each step.
    training : LocalTraining
        Optimiser, learning rate, clipping and the proximal term.
    adam_epsilon : float
        In the place of Adam's own epsilon: a larger one makes the sign a smooth function.
    """
    settings, parameters = training.settings, start
    rate = training.learning_rate
    is_sgd = settings.optimizer == "sgd"
    rule: _Rule = _SGD(rate, settings) if is_sgd else _Adam(rate, settings, adam_epsilon)
    for inputs, targets, draws in steps:
        gradients = dict(gradient_of(parameters, inputs, targets, draws))
        if training.proximal_mu:
            gradients = {
                key: g + training.proximal_mu * (parameters[key] - start[key])
                for key, g in gradients.items()
            }
        if settings.gradient_clip is not None:
            squares = torch.stack([g.square().sum() for g in gradients.values()])
            factor = (settings.gradient_clip / (squares.sum().sqrt() + 1e-6)).clamp(max=1.0)
            gradients = {key: g * factor for key, g in gradients.items()}
        parameters = rule(parameters, gradients)
    return parameters


def _root(squares: Tensor) -> Tensor:
    """Return the square root, whose derivative at 0 is taken to be 0 and not infinite."""
    positive = squares > 0
    return torch.where(positive, torch.where(positive, squares, 1.0).sqrt(), 0.0)
