"""Top-k sparsification: only each tensor's largest values are sent (Aji and Heafield, 2017)."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from atoll.attacks.defenses.base.defense import Compute, Task
from atoll.attacks.defenses.base.observed import MaskedDefense
from atoll.attacks.defenses.base.tensors import largest
from atoll.clients.ranges import Share


class TopK(MaskedDefense):
    """Top-k sparsification: the smallest values of each tensor are set to zero.

    Attributes
    ----------
    pruned : float
        The share of each tensor's values that is set to zero, in (0, 1); a tensor keeps at least
        one value.

    Examples
    --------
    >>> import torch
    >>> from atoll.attacks import Task, TopK
    >>> update = torch.tensor([3.0, -4.0, 1.0, 2.0])
    >>> TopK(pruned=0.5).apply(Task([update]), lambda task: [update])
    [tensor([ 3., -4.,  0.,  0.])]
    """

    name: ClassVar[str] = "top-k"

    pruned: Share = 0.9

    def apply(self, task: Task, compute: Compute) -> list[Tensor]:
        """Prune."""
        return [values * kept(values, self.pruned) for values in compute(task)]


def kept(values: Tensor, pruned: float) -> Tensor:
    """Return the mask of the values that stay when a share of the smallest is pruned."""
    return largest(values.abs(), max(1, round((1.0 - pruned) * values.numel())))
