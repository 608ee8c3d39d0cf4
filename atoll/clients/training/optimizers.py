"""SGD, Adam and AdamW on lists of tensors, with the semantics of ``torch.optim``.

A client's optimiser lives for a handful of steps, so constructing one from ``torch.optim`` would
cost as much as a step. These have no parameter groups, hooks or profiling, and work on stacked
parameters of many clients just as well.
"""

from __future__ import annotations

from typing import Any, Protocol

import torch
from torch import Tensor

from atoll.clients.settings import ClientSettings

BETA_1, BETA_2, EPSILON = 0.9, 0.999, 1e-8


class LocalOptimizer(Protocol):
    """Optimiser that updates parameters in place.

    Attributes
    ----------
    learning_rate : float
        Of the next step.
    """

    learning_rate: float

    def step(self, parameters: list[Tensor], gradients: list[Tensor]) -> None:
        """Take one step; ``gradients`` may be overwritten."""

    def keep_first(self, count: int) -> None:
        """From now on, step the first ``count`` of the stacked clients only."""

    def state_dict(self) -> dict[str, Any]:
        """Return the state that :meth:`load_state_dict` restores."""

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from a state."""


class SGD:
    """As ``torch.optim.SGD(lr, momentum, weight_decay=...)``."""

    def __init__(self, learning_rate: float, momentum: float, weight_decay: float) -> None:
        self.learning_rate = learning_rate
        self._momentum = momentum
        self._weight_decay = weight_decay
        self._buffers: list[Tensor] | None = None

    def step(self, parameters: list[Tensor], gradients: list[Tensor]) -> None:
        """Take one step."""
        if self._weight_decay:
            gradients = list(torch._foreach_add(gradients, parameters, alpha=self._weight_decay))
        if self._momentum:
            if self._buffers is None:
                self._buffers = [gradient.clone() for gradient in gradients]
            else:
                torch._foreach_mul_(self._buffers, self._momentum)
                torch._foreach_add_(self._buffers, gradients)
            gradients = self._buffers
        torch._foreach_add_(parameters, gradients, alpha=-self.learning_rate)

    def keep_first(self, count: int) -> None:
        """From now on, step the first ``count`` of the stacked clients only."""
        if self._buffers is not None:
            self._buffers = [buffer[:count] for buffer in self._buffers]

    def state_dict(self) -> dict[str, Any]:
        """Return the momentum buffers."""
        return {"buffers": self._buffers}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from a state."""
        self._buffers = state["buffers"]


class Adam:
    """As ``torch.optim.Adam(lr, weight_decay=...)`` with its default betas and epsilon.

    Parameters
    ----------
    learning_rate, weight_decay : float
        Of the optimiser.
    decoupled : bool
        Whether weights decay by themselves and not through the gradient: ``torch.optim.AdamW``.

    Attributes
    ----------
    learning_rate : float
        May be changed between steps.
    """

    def __init__(
        self, learning_rate: float, weight_decay: float, *, decoupled: bool = False
    ) -> None:
        self.learning_rate = learning_rate
        self._weight_decay = weight_decay
        self._decoupled = decoupled
        self._steps = 0
        self._first: list[Tensor] = []
        self._second: list[Tensor] = []

    def step(self, parameters: list[Tensor], gradients: list[Tensor]) -> None:
        """Take one step."""
        if self._weight_decay and self._decoupled:
            torch._foreach_mul_(parameters, 1 - self.learning_rate * self._weight_decay)
        elif self._weight_decay:
            gradients = list(torch._foreach_add(gradients, parameters, alpha=self._weight_decay))
        if not self._first:
            self._first = [torch.zeros_like(parameter) for parameter in parameters]
            self._second = [torch.zeros_like(parameter) for parameter in parameters]
        self._steps += 1
        torch._foreach_lerp_(self._first, gradients, 1 - BETA_1)
        torch._foreach_mul_(self._second, BETA_2)
        torch._foreach_addcmul_(self._second, gradients, gradients, 1 - BETA_2)
        deviations = torch._foreach_sqrt(self._second)
        torch._foreach_div_(deviations, (1 - BETA_2**self._steps) ** 0.5)
        torch._foreach_add_(deviations, EPSILON)
        step_size = self.learning_rate / (1 - BETA_1**self._steps)
        torch._foreach_addcdiv_(parameters, self._first, deviations, -step_size)

    def keep_first(self, count: int) -> None:
        """From now on, step the first ``count`` of the stacked clients only."""
        self._first = [moment[:count] for moment in self._first]
        self._second = [moment[:count] for moment in self._second]

    def state_dict(self) -> dict[str, Any]:
        """Return the steps taken and both moments."""
        return {"steps": self._steps, "first": self._first, "second": self._second}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from a state."""
        self._steps = int(state["steps"])
        self._first, self._second = list(state["first"]), list(state["second"])


def local_optimizer(settings: ClientSettings, learning_rate: float) -> LocalOptimizer:
    """Return a client's optimiser, with no state yet."""
    if settings.optimizer in ("adam", "adamw"):
        decoupled = settings.optimizer == "adamw"
        return Adam(learning_rate, settings.weight_decay, decoupled=decoupled)
    return SGD(learning_rate, settings.momentum, settings.weight_decay)
