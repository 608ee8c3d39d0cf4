"""Attacks that know the aggregation: Krum and the trimmed mean, after Fang et al. (2020).

Fang, Cao, Jia and Gong, "Local Model Poisoning Attacks to Byzantine-Robust Federated Learning"
(arXiv 1911.11815). The global model is to move against the direction s, the signs of the honest
updates' mean, as far as the aggregation that the attacker knows lets it.
"""

from __future__ import annotations

import math
from typing import ClassVar

import torch
from torch import Tensor

from atoll.attacks.poisoning.honest_updates import CollusionPoison

# Below this the paper gives a step up.
LEAST_STEP = 1e-5
# Values are drawn from an interval that ends at this multiple of the honest extreme.
FACTOR = 2.0
# Deviations from the mean beyond which next to no honest value lies.
NEAR, FAR = 3.0, 4.0


class FangKrum(CollusionPoison):
    """Updates -lambda s, with the largest lambda that Krum still selects (Fang et al., 2020).

    The search begins at the paper's upper bound and halves lambda until Krum, on the honest updates
    that are known and the attacker's, selects one of the attacker's; below 1e-5 it is given up, and
    the honest mean is sent. With ``knowledge = "omniscient"`` all attackers' updates are in that
    trial. With "colluders" the attacker's own honest updates stand for all honest ones, and
    attackers are added one by one until Krum selects them, as in the paper. The attacker's updates
    are equal; the paper has them within a small distance.

    Examples
    --------
    >>> import torch
    >>> from atoll.attacks import FangKrum
    >>> attack = FangKrum(nodes=(1, 2, 3), knowledge="omniscient")
    >>> honest = torch.tensor([[1.0], [1.2], [0.9], [1.1]], dtype=torch.float64)
    >>> bool(attack.craft(honest, clients=7) < 0)
    True
    """

    name: ClassVar[str] = "fang-krum"

    def craft(self, honest: Tensor, clients: int) -> Tensor:
        """Return the honest mean's signs, turned round, times the step."""
        mean = honest.mean(0)
        attackers = len(self.nodes)
        fewest = attackers if self.knowledge == "omniscient" else 1
        for copies in range(fewest, attackers + 1):
            step = krum_step(honest, mean.sign(), copies)
            if step > 0.0:
                return -step * mean.sign()
        return mean


def krum_step(honest: Tensor, direction: Tensor, copies: int) -> float:
    """Return the step at which Krum selects the attacker's update; 0 if none is found.

    Parameters
    ----------
    honest : Tensor
        Honest updates, shape (k, d).
    direction : Tensor
        The signs s, shape (d,).
    copies : int
        The attacker's updates beside them.
    """
    step = largest_krum_step(honest, copies)
    while step > LEAST_STEP:
        crafted = -step * direction
        everyone = torch.cat([crafted.expand(copies, -1), honest])
        if krum_selects(everyone, copies) < copies:
            return step
        step /= 2
    return 0.0


def largest_krum_step(honest: Tensor, copies: int) -> float:
    """Return the upper bound of the step (theorem 1 of the paper).

    It is D / ((n - 2 c - 1) sqrt(d)) + M / sqrt(d), with n updates of which c are the attacker's, D
    the least sum of an honest update's distances to its n - c - 2 nearest honest ones, and M the
    largest honest norm.
    """
    count, size = honest.shape
    distances = torch.cdist(honest, honest, compute_mode="donot_use_mm_for_euclid_dist")
    nearest = max(1, count - 2)
    # The first is the update's distance to itself.
    least = float(distances.sort(1).values[:, 1 : 1 + nearest].sum(1).min()) if count > 1 else 0.0
    among = max(1, count - copies - 1)
    root = math.sqrt(size)
    return least / (among * root) + float(honest.norm(dim=1).max()) / root


def krum_selects(updates: Tensor, attackers: int) -> int:
    """Return which update Krum selects (Blanchard et al., 2017), the first of equal ones.

    Parameters
    ----------
    updates : Tensor
        Shape (n, d).
    attackers : int
        The number f that Krum is told: scores are of the max(1, n - f - 2) nearest.
    """
    squares = torch.cdist(updates, updates, compute_mode="donot_use_mm_for_euclid_dist").square()
    nearest = max(1, len(updates) - attackers - 2)
    return int(squares.sort(1).values[:, 1 : 1 + nearest].sum(1).argmin())


class FangTrimmedMean(CollusionPoison):
    """Values just beyond the honest ones, on the wrong side (Fang et al., 2020), coordinate-wise.

    With ``knowledge = "omniscient"`` a value is drawn between the honest updates' extreme against
    the direction s and twice of it, or half of it where that is farther from them; with
    "colluders" between 3 and 4 deviations of the attacker's own updates from their mean. The paper
    has it for the median, too. All the attacker's clients send the same draw, in every round; in
    the paper each has its own.

    Examples
    --------
    >>> import torch
    >>> from atoll.attacks import FangTrimmedMean
    >>> attack = FangTrimmedMean(nodes=(1, 2), knowledge="omniscient")
    >>> honest = torch.tensor([[1.0], [1.2], [0.9], [1.1]], dtype=torch.float64)
    >>> bool(0.45 <= attack.craft(honest, clients=6) <= 0.9)
    True
    """

    name: ClassVar[str] = "fang-trimmed-mean"

    def craft(self, honest: Tensor, clients: int) -> Tensor:
        """Draw the values."""
        mean = honest.mean(0)
        direction = mean.sign()
        drawn = torch.rand(len(mean), generator=self.generator("fang"), dtype=honest.dtype)
        if self.knowledge == "colluders":
            deviation = honest.std(0, correction=0)
            return mean - direction * deviation * (NEAR + (FAR - NEAR) * drawn)
        extreme = torch.where(direction > 0, honest.min(0).values, honest.max(0).values)
        farther = 1.0 + (FACTOR - 1.0) * drawn
        # Towards zero where the extreme is on the honest side of it, else away from it.
        crafted = torch.where(extreme * direction > 0, extreme / farther, extreme * farther)
        return torch.where(direction == 0, mean, crafted)
