"""Learned proximal networks as priors (Fang, Buchanan and Sulam, ICLR 2024, arXiv 2310.14344)."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar, Self, cast

import torch
from torch import Tensor

from atoll.attacks.optim.minimize import minimize
from atoll.attacks.optim.step_rules import LBFGS
from atoll.attacks.priors.convex_network import ConvexNetwork
from atoll.attacks.priors.prior import Prior
from atoll.attacks.priors.prior_files import read_prior
from atoll.attacks.threat.capabilities import Capability
from atoll.attacks.threat.observation import Observation

# Of the search for the inverse of f, a convex problem.
INVERSE_STEPS = 60
MEMORY = 10


class LearnedProximal(Prior):
    """Prior whose proximal map is a learned network, exactly.

    With f the gradient of the convex psi, and y = f^-1(x), the prior is
    R(x) = <y, x> - |x|^2 / 2 - psi(y), and its gradient is y - x (Fang et al., 2024, sec. 3). Where
    training has found the maximum of the posterior, R is -s^2 log p, up to a constant, with s the
    deviation of the noise of the training.

    Parameters
    ----------
    network : ConvexNetwork
        The network; it is not changed.
    """

    kinds: ClassVar[frozenset[str]] = frozenset({"images"})
    needs: ClassVar[frozenset[Capability]] = frozenset({Capability.PRIOR})
    needs_path: ClassVar[bool] = True

    def __init__(self, network: ConvexNetwork) -> None:
        self.network = network.eval().requires_grad_(False)

    @classmethod
    def of(cls, observation: Observation, path: Path | None, strength: float) -> Self:
        """Read the network of a file."""
        assert path is not None
        network = read_prior(path, "lpn", observation.space.shape)
        return cls(cast(ConvexNetwork, network).to(observation.model.device))

    def value(self, examples: Tensor) -> Tensor:
        """Return the prior of each example: shape (n,)."""
        return _value(examples, self)

    def prox(self, examples: Tensor) -> Tensor:
        """Return f of each example: one pass of the network and its derivative."""
        with torch.no_grad():
            found: Tensor = self.network(examples)
        return found

    def inverse(self, examples: Tensor) -> Tensor:
        """Return y with f(y) = x: the minimum of the convex psi(y) - <x, y>."""
        wanted = examples.detach()

        def objective(values: list[Tensor]) -> tuple[Tensor, Tensor]:
            costs = self.network.psi(values[0]) - (wanted * values[0]).flatten(1).sum(1)
            return costs, costs

        with torch.enable_grad():
            found = minimize(objective, [wanted], LBFGS(history=MEMORY), INVERSE_STEPS)
        return found.values[0]


class _Value(torch.autograd.Function):
    """The prior's value, with the derivative that its inverse gives."""

    @staticmethod
    def forward(ctx: Any, examples: Tensor, prior: LearnedProximal) -> Tensor:
        inverse = prior.inverse(examples)
        ctx.save_for_backward(inverse - examples)
        product = (inverse * examples).flatten(1).sum(1)
        return product - 0.5 * examples.flatten(1).square().sum(1) - prior.network.psi(inverse)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        [slope] = ctx.saved_tensors
        each = gradients[0].view(-1, *[1] * (slope.dim() - 1))
        return each * slope, None


def _value(examples: Tensor, prior: LearnedProximal) -> Tensor:
    found: Tensor = _Value.apply(examples, prior)  # type: ignore[no-untyped-call]
    return found
