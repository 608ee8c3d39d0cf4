"""Pixel errors: mean squared error and PSNR."""

from __future__ import annotations

from torch import Tensor

# The squared error at which PSNR ends: 200 dB, far below float32's resolution.
LEAST_ERROR = 1e-20


def mse(images: Tensor, truth: Tensor) -> Tensor:
    """Return each image's mean squared error.

    Parameters
    ----------
    images, truth : Tensor
        Shape (n, channels, height, width), in [0, 1].

    Returns
    -------
    Tensor
        float64, shape (n,).

    Examples
    --------
    >>> import torch
    >>> from atoll.attacks import mse
    >>> mse(torch.zeros(1, 1, 2, 2), torch.full((1, 1, 2, 2), 0.5))
    tensor([0.2500], dtype=torch.float64)
    """
    return (images.double() - truth.double()).square().flatten(1).mean(1)


def psnr(images: Tensor, truth: Tensor) -> Tensor:
    """Return each image's peak signal-to-noise ratio in dB: -10 log10 MSE, at most 200.

    Parameters
    ----------
    images, truth : Tensor
        Shape (n, channels, height, width), in [0, 1].

    Returns
    -------
    Tensor
        float64, shape (n,), in dB.

    Examples
    --------
    >>> import torch
    >>> from atoll.attacks import psnr
    >>> psnr(torch.zeros(1, 1, 2, 2), torch.full((1, 1, 2, 2), 0.1)).round(decimals=3)
    tensor([20.], dtype=torch.float64)
    """
    return -10 * mse(images, truth).clamp_min(LEAST_ERROR).log10()
