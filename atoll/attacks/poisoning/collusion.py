"""Attacks that hide among honest updates: ALIE, inner-product manipulation, Min-Max, Min-Sum."""

from __future__ import annotations

from statistics import NormalDist
from typing import Annotated, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from atoll.attacks.poisoning.honest_updates import CollusionPoison
from atoll.clients.ranges import Positive


class ALIE(CollusionPoison):
    """Mean minus z deviations of honest updates ("A Little Is Enough", Baruch et al., 2019).

    By default z is the paper's: the largest shift that still has enough honest clients farther
    from the mean on its side for a majority, z = Phi^-1((n - m - s) / (n - m)) with s = floor(n /
    2 + 1) - m, of n clients with m of the attacker's. Where that share is not above one half,
    there is no such shift, and z is 0.

    Attributes
    ----------
    z : float or None
        Deviations by which each value is shifted; by default the paper's.

    Examples
    --------
    >>> import torch
    >>> from atoll.attacks import ALIE
    >>> attack = ALIE(nodes=(1, 2), z=1.0)
    >>> attack.craft(torch.tensor([[1.0], [3.0]]), clients=10)  # mean 2, deviation 1
    tensor([1.])
    """

    name: ClassVar[str] = "alie"

    z: Annotated[Positive | None, Field(examples=[1.5])] = None

    def craft(self, honest: Tensor, clients: int) -> Tensor:
        """Shift the mean by z deviations of each value."""
        z = alie_z(clients, len(self.nodes)) if self.z is None else self.z
        return honest.mean(0) - z * honest.std(0, correction=0)


def alie_z(clients: int, attackers: int) -> float:
    """Return ALIE's z for so many clients (Baruch et al., 2019, section 3.3)."""
    honest = clients - attackers
    supporters = clients // 2 + 1 - attackers
    if honest <= 0 or not (honest - supporters) / honest > 0.5:
        return 0.0
    return NormalDist().inv_cdf(min(1.0 - 1e-12, (honest - supporters) / honest))


class InnerProduct(CollusionPoison):
    """The mean honest update times a negative factor (Xie et al., 2020, "Fall of Empires").

    Attributes
    ----------
    epsilon : float
        The factor, without its sign. Small ones pass for honest; an average is turned round by
        those above (n - m) / m, of n clients with m of the attacker's.

    Examples
    --------
    >>> import torch
    >>> from atoll.attacks import InnerProduct
    >>> InnerProduct(nodes=(1, 2), epsilon=0.5).craft(torch.tensor([[1.0], [3.0]]), clients=10)
    tensor([-1.])
    """

    name: ClassVar[str] = "ipm"

    epsilon: Annotated[float, Field(ge=1e-6, le=1e6)] = 0.5

    def craft(self, honest: Tensor, clients: int) -> Tensor:
        """Return minus epsilon times the mean."""
        return -self.epsilon * honest.mean(0)


Direction = Literal["std", "unit", "sign"]


class MinMax(CollusionPoison):
    """Farthest shift of the mean that is within the honest updates' largest distance.

    Shejwalkar and Houmansadr (2021), section 4.2.1: the largest gamma with max_i ||mean + gamma p
    - x_i|| <= max_ij ||x_i - x_j||. The paper searches for gamma; it is a root of a quadratic for
    each i, and the smallest is taken.

    Attributes
    ----------
    direction : "std", "unit" or "sign"
        The shift p: minus the values' deviations, the mean's unit vector, or the mean's signs.

    Examples
    --------
    >>> import torch
    >>> from atoll.attacks import MinMax
    >>> attack = MinMax(nodes=(1, 2), direction="unit")
    >>> attack.craft(torch.tensor([[1.0], [3.0]]), clients=10)  # 2 away from 3 at most
    tensor([1.])
    """

    name: ClassVar[str] = "min-max"

    direction: Direction = "std"

    def craft(self, honest: Tensor, clients: int) -> Tensor:
        """Shift the mean as far as the bound lets."""
        mean = honest.mean(0)
        shift = shift_of(honest, self.direction)
        bound = torch.cdist(honest, honest, compute_mode="donot_use_mm_for_euclid_dist").max() ** 2
        offsets = mean - honest
        slopes, gaps = offsets @ shift, bound - offsets.square().sum(1)
        return mean + largest_step(shift.square().sum(), slopes, gaps).min() * shift


class MinSum(CollusionPoison):
    """Farthest shift of the mean whose distances sum to no more than an honest update's.

    Shejwalkar and Houmansadr (2021), section 4.2.2: the largest gamma with sum_i ||mean + gamma p
    - x_i||^2 <= max_i sum_j ||x_i - x_j||^2, which is the root of one quadratic.

    Attributes
    ----------
    direction : "std", "unit" or "sign"
        As of the attack Min-Max.

    Examples
    --------
    >>> import torch
    >>> from atoll.attacks import MinSum
    >>> attack = MinSum(nodes=(1, 2), direction="unit")
    >>> attack.craft(torch.tensor([[1.0], [3.0]]), clients=10)  # 4 in squares, as of 1 and of 3
    tensor([1.])
    """

    name: ClassVar[str] = "min-sum"

    direction: Direction = "std"

    def craft(self, honest: Tensor, clients: int) -> Tensor:
        """Shift the mean as far as the bound lets."""
        mean = honest.mean(0)
        shift = shift_of(honest, self.direction)
        distances = torch.cdist(honest, honest, compute_mode="donot_use_mm_for_euclid_dist")
        bound = distances.square().sum(1).max()
        # Distances to the mean's shift are of it and of the deviations: the rest cancels.
        gap = bound - (honest - mean).square().sum()
        squares = len(honest) * shift.square().sum()
        step = largest_step(squares, torch.zeros(1, dtype=gap.dtype), gap[None])
        shifted: Tensor = mean + step.squeeze() * shift
        return shifted


def shift_of(honest: Tensor, direction: Direction) -> Tensor:
    """Return the direction of a shift; zeros where there is none."""
    mean = honest.mean(0)
    if direction == "std":
        return -honest.std(0, correction=0)
    if direction == "sign":
        return -mean.sign()
    size = torch.linalg.vector_norm(mean)
    unit: Tensor = -mean / size.clamp_min(torch.finfo(mean.dtype).tiny)
    return unit


def largest_step(square: Tensor, slopes: Tensor, gaps: Tensor) -> Tensor:
    """Return the largest g with square g^2 + 2 slope g <= gap, by slope; 0 without a direction."""
    if not square > 0:
        return torch.zeros_like(slopes)
    roots = (slopes.square() + square * gaps).clamp_min(0).sqrt() - slopes
    steps: Tensor = roots / square
    return steps
