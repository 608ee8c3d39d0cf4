"""Space of the images that a model takes, and its normalisation."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor

from atoll.clients.data.inputs.images import ImageInputs


@dataclass(frozen=True)
class ImageSpace:
    """The images that a model takes.

    Attributes
    ----------
    shape : tuple[int, int, int]
        Channels, height, width.
    mean, std : tuple[float, ...]
        Per channel, in units of [0, 1].

    Examples
    --------
    >>> import torch
    >>> from atoll.attacks import ImageSpace
    >>> space = ImageSpace(shape=(1, 2, 2), mean=(0.5,), std=(0.25,))
    >>> space.normalize(torch.ones(1, 1, 2, 2)).unique()
    tensor([2.])
    """

    shape: tuple[int, int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]

    @classmethod
    def of(cls, inputs: ImageInputs) -> ImageSpace:
        """Return the space of a data set's images."""
        return cls(inputs.image_shape, inputs.mean, inputs.std)

    def normalize(self, images: Tensor) -> Tensor:
        """Normalise images (..., channels, height, width) in [0, 1] for the model."""
        of = self._channels(images)
        return (images - of.mean) / of.std

    def denormalize(self, images: Tensor) -> Tensor:
        """Turn the model's input (..., channels, height, width) to [0, 1], without clipping."""
        of = self._channels(images)
        return images * of.std + of.mean

    def clip(self, images: Tensor) -> Tensor:
        """Return the nearest model inputs that are images: of pixels in [0, 1]."""
        of = self._channels(images)
        return torch.clamp(images, of.low, of.high)

    def _channels(self, images: Tensor) -> _Channels:
        return _channels(self.mean, self.std, images.dtype, images.device)


class _Channels(NamedTuple):
    """Normalisation and bounds of images: (channels, 1, 1) each."""

    mean: Tensor
    std: Tensor
    low: Tensor
    high: Tensor


@lru_cache(maxsize=32)
def _channels(
    mean: tuple[float, ...], std: tuple[float, ...], dtype: torch.dtype, device: torch.device
) -> _Channels:
    """Make these once: every step of an attack needs them."""
    means = torch.tensor(mean, dtype=dtype, device=device).view(-1, 1, 1)
    deviations = torch.tensor(std, dtype=dtype, device=device).clamp_min(1e-6).view(-1, 1, 1)
    return _Channels(means, deviations, -means / deviations, (1 - means) / deviations)
