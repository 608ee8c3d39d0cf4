"""Structural similarity (Wang et al., 2004): 11x11 Gaussian window of sigma 1.5."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

WINDOW, SIGMA = 11, 1.5
K1, K2 = 0.01, 0.03


def ssim(images: Tensor, truth: Tensor) -> Tensor:
    """Return each image's structural similarity, the mean over places and channels.

    Windows that lie wholly in the image count. On images smaller than 11 pixels the window is the
    largest odd size that fits.

    Parameters
    ----------
    images, truth : Tensor
        Shape (n, channels, height, width), in [0, 1].

    Returns
    -------
    Tensor
        float64, shape (n,); 1 for equal images.

    Examples
    --------
    >>> import torch
    >>> from atoll.attacks import ssim
    >>> images = torch.rand(2, 1, 16, 16, generator=torch.Generator().manual_seed(0))
    >>> bool(torch.allclose(ssim(images, images), torch.ones(2).double()))
    True
    """
    x, y = images.double(), truth.double()
    shortest = min(x.shape[-2:])
    window = _gaussian(min(WINDOW, shortest - 1 + shortest % 2))
    mean_x, mean_y = _blur(x, window), _blur(y, window)
    variance_x = _blur(x * x, window) - mean_x**2
    variance_y = _blur(y * y, window) - mean_y**2
    covariance = _blur(x * y, window) - mean_x * mean_y
    c1, c2 = K1**2, K2**2
    luminance = (2 * mean_x * mean_y + c1) / (mean_x**2 + mean_y**2 + c1)
    structure = (2 * covariance + c2) / (variance_x + variance_y + c2)
    return (luminance * structure).flatten(1).mean(1)


def _gaussian(size: int) -> Tensor:
    offsets = torch.arange(size, dtype=torch.float64) - (size - 1) / 2
    weights = torch.exp(-(offsets**2) / (2 * SIGMA**2))
    return weights / weights.sum()


def _blur(images: Tensor, window: Tensor) -> Tensor:
    """Average over windows, each channel by itself; no padding."""
    channels, size = images.shape[1], len(window)
    down = window.view(1, 1, size, 1).expand(channels, 1, size, 1)
    across = window.view(1, 1, 1, size).expand(channels, 1, 1, size)
    return F.conv2d(F.conv2d(images, down, groups=channels), across, groups=channels)
