"""Comparison of a captured update with a replayed one."""

from __future__ import annotations

import math

import torch
from torch import Tensor

# A capture is consistent if the cosine of true and captured update is at least 1 - this, and
# their norms agree to NORM_TOLERANCE.
COSINE_TOLERANCE = 1e-6
NORM_TOLERANCE = 1e-3


def agree(cosine: float, ratio: float) -> bool:
    """Tell whether two updates are one, by their cosine and the ratio of their norms."""
    return cosine >= 1 - COSINE_TOLERANCE and abs(ratio - 1) <= NORM_TOLERANCE


def compare(captured: list[Tensor], replayed: list[Tensor]) -> tuple[float, float]:
    """Return the cosine of two updates, and the ratio of their norms."""
    first, second = flat(captured), flat(replayed)
    norms = float(first.norm()), float(second.norm())
    if norms == (0.0, 0.0):
        return 1.0, 1.0
    if 0.0 in norms or not all(map(math.isfinite, norms)):
        return 0.0, norms[0] / norms[1] if norms[1] else math.inf
    return float(first @ second) / (norms[0] * norms[1]), norms[0] / norms[1]


def flat(tensors: list[Tensor]) -> Tensor:
    """Return a whole update: shape (all values,)."""
    return torch.cat([tensor.flatten() for tensor in tensors])
