"""Gaussian noise on the gradient (Zhu et al., "Deep Leakage from Gradients", 2019)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor, nn

from atoll.attacks.defenses.base.defense import Compute, Defense, Estimate, Task
from atoll.attacks.defenses.base.tensors import gaussian
from atoll.clients.ranges import Deviation

# The median of |N(0, 1)|.
NORMAL_MEDIAN = 0.6744897501960817


class GaussianNoise(Defense):
    """Gaussian noise N(0, std^2) on every value.

    Attributes
    ----------
    std : float
        In units of what it is added to: a gradient on steps, a change of parameters on the update
        (which is the learning rate times a gradient, after one step of SGD).

    Examples
    --------
    >>> import torch
    >>> from atoll.attacks import GaussianNoise, Task
    >>> update = [torch.zeros(10_000)]
    >>> [noisy] = GaussianNoise(std=0.01).apply(Task(update), lambda task: update)
    >>> 0.009 < float(noisy.std()) < 0.011
    True
    """

    name: ClassVar[str] = "gaussian-noise"

    std: Deviation = 0.01

    def apply(self, task: Task, compute: Compute) -> list[Tensor]:
        """Add the noise."""
        gradient = compute(task)
        noise = gaussian(gradient, task.generator)
        return list(torch._foreach_add(gradient, noise, alpha=self.std))

    @classmethod
    def estimate(cls, observed: Sequence[Tensor], model: nn.Module) -> Estimate:
        """Estimate the noise's deviation from the median size of the values.

        Most of a gradient's values are small beside the noise, or the noise does no harm; so this
        bounds the deviation from above. Nothing can be taken off: the expectation is unchanged.
        """
        sizes = torch.cat([values.detach().flatten() for values in observed]).abs()
        return Estimate({"std": float(sizes.median()) / NORMAL_MEDIAN})
