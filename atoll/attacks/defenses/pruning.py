"""Top-k sparsification: only each tensor's largest values are sent (Aji and Heafield, 2017)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, ClassVar

from pydantic import Field
from torch import Tensor, nn

from atoll.attacks.defenses.defense import Compute, Defense, Estimate, Task
from atoll.attacks.defenses.tensors import largest, supports, zero_share


class TopK(Defense):
    """Sets the smallest values of each tensor to zero.

    Attributes
    ----------
    pruned : float
        The share of each tensor's values that is set to zero, in (0, 1); a tensor keeps at least
        one value.
    """

    name: ClassVar[str] = "top-k"
    is_mimicked: ClassVar[bool] = True

    pruned: Annotated[float, Field(gt=0.0, lt=1.0)] = 0.9

    def apply(self, task: Task, compute: Compute) -> list[Tensor]:
        """Prune."""
        return [values * kept(values, self.pruned) for values in compute(task)]

    @classmethod
    def estimate(cls, observed: Sequence[Tensor], model: nn.Module) -> Estimate:
        """Read the mask from what is not zero."""
        return Estimate({"pruned": zero_share(observed)}, supports(observed))

    @classmethod
    def mimic(cls, gradient: Sequence[Tensor], estimate: Estimate) -> list[Tensor]:
        """Keep what the client kept."""
        return [g * mask for g, mask in zip(gradient, estimate.tensors, strict=True)]


def kept(values: Tensor, pruned: float) -> Tensor:
    """Return the mask of the values that stay when a share of the smallest is pruned."""
    return largest(values.abs(), max(1, round((1.0 - pruned) * values.numel())))
