"""Base classes of defenses whose parameters show in the update: a mask, or a norm."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor, nn

from atoll.attacks.defenses.base.defense import Defense, Estimate
from atoll.attacks.defenses.base.tensors import joint_norm


class MaskedDefense(Defense):
    """A defense that sets values to zero: the attacker sets the same ones to zero."""

    is_mimicked: ClassVar[bool] = True

    @classmethod
    def estimate(cls, observed: Sequence[Tensor], model: nn.Module) -> Estimate:
        """Read the mask from the non-zero values."""
        masks = [(values != 0).to(values.dtype) for values in observed]
        kept = sum(float(mask.sum()) for mask in masks)
        size = sum(mask.numel() for mask in masks)
        return Estimate({"pruned": 1.0 - kept / max(1, size)}, masks)

    @classmethod
    def mimic(cls, gradient: Sequence[Tensor], estimate: Estimate) -> list[Tensor]:
        """Apply the observed mask."""
        return [g * mask for g, mask in zip(gradient, estimate.tensors, strict=True)]


class BoundedDefense(Defense):
    """A defense that bounds the norm: the attacker clips to the norm that it sees.

    That is exact wherever the update was clipped and has no noise.
    """

    is_mimicked: ClassVar[bool] = True

    @classmethod
    def estimate(cls, observed: Sequence[Tensor], model: nn.Module) -> Estimate:
        """Take the observed norm for the bound."""
        bound = joint_norm(observed).detach()
        return Estimate({"bound": float(bound)}, [bound])

    @classmethod
    def mimic(cls, gradient: Sequence[Tensor], estimate: Estimate) -> list[Tensor]:
        """Clip, the factor being held constant."""
        return clipped(gradient, estimate.tensors[0])


def clipped(gradient: Sequence[Tensor], bound: Tensor) -> list[Tensor]:
    """Return ``gradient`` scaled to norm ``bound`` if it is longer; the factor has no graph."""
    norm = joint_norm([values.detach() for values in gradient])
    factor = torch.clamp(bound.to(norm) / norm.clamp_min(torch.finfo(norm.dtype).tiny), max=1.0)
    return [values * factor for values in gradient]
