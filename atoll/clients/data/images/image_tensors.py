"""Images as tensors: float32, channels first, normalised."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


def to_tensor(images: NDArray[np.uint8], mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """Return images normalised by channel.

    Parameters
    ----------
    images : NDArray[uint8]
        Shape (n, height, width, channels).
    mean, std : Sequence[float]
        Per channel, in units of [0, 1].

    Returns
    -------
    Tensor
        float32, shape (n, channels, height, width).

    Examples
    --------
    >>> import numpy as np
    >>> from atoll.clients import to_tensor
    >>> to_tensor(np.full((1, 2, 2, 1), 255, np.uint8), mean=[0.5], std=[0.25]).unique()
    tensor([2.0000])
    """
    scale, shift = _scale_and_shift(tuple(mean), tuple(std))
    pixels = torch.from_numpy(np.ascontiguousarray(images)).permute(0, 3, 1, 2)
    return torch.addcmul(shift, pixels.float(), scale).contiguous()


@lru_cache(maxsize=64)
def _scale_and_shift(mean: tuple[float, ...], std: tuple[float, ...]) -> tuple[Tensor, Tensor]:
    means = torch.tensor(mean, dtype=torch.float64).view(1, -1, 1, 1)
    deviations = torch.tensor(std, dtype=torch.float64).clamp_min(1e-6).view(1, -1, 1, 1)
    return (1 / (255 * deviations)).float(), (-means / deviations).float()
