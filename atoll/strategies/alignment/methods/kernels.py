"""Exact means of Gaussian kernels over pairs of examples, with their gradients."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

# Entries of a kernel matrix that are held at once: 32 MB of float64.
BLOCK = 2**22


def kernel_mean(left: Tensor, right: Tensor, gammas: Sequence[float]) -> Tensor:
    """Return the mean over all pairs of the sum of exp(-gamma ||x - y||^2) over the gammas.

    Time is that of all pairs, memory that of a block of them: values and gradients are made
    together, a few rows of the kernel matrix at a time.

    Parameters
    ----------
    left, right : Tensor
        Shapes (n, d) and (m, d).
    gammas : Sequence[float]
        The kernels.
    """
    mean: Tensor = _KernelMean.apply(left, right, tuple(gammas))  # type: ignore[no-untyped-call]
    return mean


class _KernelMean(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, left: Tensor, right: Tensor, gammas: tuple[float, ...]) -> Tensor:
        """Return the mean, and keep its gradients for :meth:`backward`."""
        total = left.new_zeros(())
        of_left, of_right = torch.empty_like(left), torch.zeros_like(right)
        rows = max(1, BLOCK // len(right))
        for begin in range(0, len(left), rows):
            some = left[begin : begin + rows]
            values, slopes = _kernels(some, right, gammas)
            total += values
            # Of exp(-gamma ||x - y||^2) by x: slope (x - y); by y its negative.
            of_left[begin : begin + rows] = slopes.sum(1)[:, None] * some - slopes @ right
            of_right += slopes.sum(0)[:, None] * right - slopes.mT @ some
        pairs = len(left) * len(right)
        ctx.save_for_backward(of_left / pairs, of_right / pairs)
        return total / pairs

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, None]:
        """Return the gradients by both sets of points."""
        of_left, of_right = ctx.saved_tensors
        return grads[0] * of_left, grads[0] * of_right, None


def _kernels(left: Tensor, right: Tensor, gammas: tuple[float, ...]) -> tuple[Tensor, Tensor]:
    """Return the kernels' sum over all pairs, and the sum over gammas of -2 gamma kernel."""
    norms = left.square().sum(1)[:, None] + right.square().sum(1)[None]
    distances = torch.addmm(norms, left, right.mT, alpha=-2).clamp_min_(0.0)
    total, slopes = left.new_zeros(()), torch.zeros_like(distances)
    for gamma in gammas:
        kernel = torch.exp(-gamma * distances)
        total += kernel.sum()
        slopes.add_(kernel, alpha=-2 * gamma)
    return total, slopes
