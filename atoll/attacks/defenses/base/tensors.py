"""Operations on lists of tensors that several defenses share."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def joint_norm(tensors: Sequence[Tensor]) -> Tensor:
    """Return the L2 norm of all tensors' values together, a scalar."""
    norm: Tensor = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(list(tensors))))
    return norm


def gaussian(tensors: Sequence[Tensor], generator: torch.Generator) -> list[Tensor]:
    """Return standard normal noise in the tensors' shapes, drawn on the CPU."""
    return [torch.randn(t.shape, generator=generator, dtype=t.dtype).to(t.device) for t in tensors]


def largest(values: Tensor, count: int) -> Tensor:
    """Return a mask of the ``count`` largest values, shaped as ``values``; ties by position."""
    chosen = torch.sort(values.flatten(), descending=True, stable=True).indices[:count]
    mask = torch.zeros(values.numel(), dtype=torch.bool, device=values.device)
    mask[chosen] = True
    return mask.view(values.shape)


def straight_through(exact: Tensor, smooth: Tensor) -> Tensor:
    """Return the values of ``exact`` with the derivative of ``smooth`` (Bengio et al., 2013)."""
    return exact.detach() + smooth - smooth.detach()
