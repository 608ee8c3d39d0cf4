"""Priors without training: total variation, and a Gaussian fitted to public data."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar, Self

import torch
from torch import Tensor

from atoll.attacks.priors.prior import Prior
from atoll.attacks.threat.capabilities import Capability
from atoll.attacks.threat.observation import Observation
from atoll.attacks.threat.table_space import TableSpace
from atoll.clients.data.inputs.table import TableInputs
from atoll.errors import AttackError

# Of the dual problem of total variation, with the longest step that is safe in two dimensions.
DUAL_STEPS = 100
# Of the mean variance: it keeps directions in which public data do not vary.
RIDGE = 1e-2


class TotalVariation(Prior):
    """Sum of absolute differences of neighbouring pixels, down plus across (anisotropic).

    Parameters
    ----------
    strength : float
        Factor of the sum.
    """

    def __init__(self, strength: float) -> None:
        self._strength = strength

    @classmethod
    def of(cls, observation: Observation, path: Path | None, strength: float) -> Self:
        """Return the prior."""
        return cls(strength)

    def value(self, examples: Tensor) -> Tensor:
        """Return the value of each image: shape (n,)."""
        down, across = _differences(examples)
        return self._strength * (down.abs().flatten(1).sum(1) + across.abs().flatten(1).sum(1))

    @torch.no_grad()
    def prox(self, examples: Tensor) -> Tensor:
        """Return the proximal map, by the fast gradient projection of Beck and Teboulle (2009)."""
        down, across = (torch.zeros_like(part) for part in _differences(examples))
        ahead_down, ahead_across, inertia = down, across, 1.0
        for _ in range(DUAL_STEPS):
            image = examples - self._strength * _adjoint(ahead_down, ahead_across, examples)
            up_down, up_across = _differences(image)
            rate = 1 / (8 * self._strength)
            next_down = (ahead_down + rate * up_down).clamp(-1, 1)
            next_across = (ahead_across + rate * up_across).clamp(-1, 1)
            next_inertia = (1 + (1 + 4 * inertia**2) ** 0.5) / 2
            share = (inertia - 1) / next_inertia
            ahead_down = next_down + share * (next_down - down)
            ahead_across = next_across + share * (next_across - across)
            down, across, inertia = next_down, next_across, next_inertia
        return examples - self._strength * _adjoint(down, across, examples)


def _differences(images: Tensor) -> tuple[Tensor, Tensor]:
    return images[..., 1:, :] - images[..., :-1, :], images[..., 1:] - images[..., :-1]


def _adjoint(down: Tensor, across: Tensor, like: Tensor) -> Tensor:
    """Return the transpose of :func:`_differences`."""
    images = torch.zeros_like(like)
    images[..., 1:, :] += down
    images[..., :-1, :] -= down
    images[..., 1:] += across
    images[..., :-1] -= across
    return images


class Gaussian(Prior):
    """Half the squared Mahalanobis distance from the mean of public examples.

    Parameters
    ----------
    examples : Tensor
        Public examples, shape (n, ...), n > 1.
    strength : float
        Factor of the distance.

    Raises
    ------
    AttackError
        If there are fewer than two examples.
    """

    kinds: ClassVar[frozenset[str]] = frozenset({"images", "table"})
    needs: ClassVar[frozenset[Capability]] = frozenset({Capability.PUBLIC_DATA})

    def __init__(self, examples: Tensor, strength: float) -> None:
        if len(examples) < 2:
            raise AttackError(
                f"prior = 'gaussian': there are {len(examples)} public examples; expected two"
            )
        flat = examples.flatten(1).double()
        covariance = torch.cov(flat.T).reshape(flat.shape[1], flat.shape[1])
        variances, basis = torch.linalg.eigh(covariance)
        variances = variances.clamp_min(0.0)
        variances = variances + RIDGE * variances.mean().clamp_min(1e-12)
        self._mean = flat.mean(0).to(examples)
        self._basis = basis.to(examples)
        self._precisions = (strength / variances).to(examples)

    @classmethod
    def of(cls, observation: Observation, path: Path | None, strength: float) -> Self:
        """Fit the Gaussian to an attacker's public data."""
        assert observation.public is not None
        examples, inputs = observation.public.examples, observation.inputs
        if isinstance(inputs, TableInputs):
            examples = TableSpace(inputs).of_stored(examples)
        return cls(examples.to(observation.model.device), strength)

    def value(self, examples: Tensor) -> Tensor:
        """Return the value of each example: shape (n,)."""
        turned = self._turned(examples)
        value: Tensor = 0.5 * (turned.square() * self._precisions).sum(1)
        return value

    @torch.no_grad()
    def prox(self, examples: Tensor) -> Tensor:
        """Return the proximal map: each principal component shrinks to the mean."""
        shrunk = self._turned(examples) / (1 + self._precisions)
        found: Tensor = (self._mean + shrunk @ self._basis.T).view(examples.shape)
        return found

    def _turned(self, examples: Tensor) -> Tensor:
        turned: Tensor = (examples.flatten(1) - self._mean) @ self._basis
        return turned
