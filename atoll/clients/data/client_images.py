"""Images of a client in training: in memory, or read batch by batch if they are many."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from atoll.clients.data.augmentation import Augmentation, draw_augmentation, vary_pixels
from atoll.clients.data.image_dataset import ImageDataset
from atoll.clients.data.image_tensors import to_tensor

# A client with more float32 images than this (bytes) has no more than a batch of them in memory.
LARGE_BYTES = 2 * 2**30


class Images(Protocol):
    """Images of a client, float32 (n, channels, height, width): a tensor or a reader."""

    @property
    def device(self) -> torch.device:
        """Device on which they are used."""

    def __getitem__(self, chosen: Tensor) -> Tensor:
        """Return the images of these indices."""


class VariedImages:
    """Examples of a data set's training split, varied as ``data.options.augmentation`` says.

    Parameters
    ----------
    dataset : ImageDataset
        The data set.
    indices : NDArray[int64]
        Shape (n,): which training examples.
    seed : int
        Decides how they are varied; any subset of them is varied as all are.
    """

    def __init__(self, dataset: ImageDataset, indices: NDArray[np.int64], seed: int) -> None:
        self._images, self._indices = dataset.train.images, indices
        self._augmentation: Augmentation | None = None
        if dataset.augmentation != "none":
            aspects = dataset.train.aspects
            own = np.ones(len(indices), np.float32) if aspects is None else aspects[indices]
            self._augmentation = draw_augmentation(dataset.augmentation, own, seed)

    def pixels(self, chosen: NDArray[np.int64] | None = None) -> NDArray[np.uint8]:
        """Return the images numbered ``chosen`` of the n, or all: (m, height, width, channels)."""
        if chosen is None:
            chosen = np.arange(len(self._indices))
        pixels = self._images[self._indices[chosen]]
        if self._augmentation is None:
            return pixels
        return vary_pixels(self._augmentation, pixels, chosen)


class StreamedImages:
    """Images that are read when a batch asks for them.

    Parameters
    ----------
    images : VariedImages
        The client's.
    to_floats : Callable
        From pixels to a tensor as models want it.
    device : str
        Where batches are put.
    """

    def __init__(
        self, images: VariedImages, to_floats: Callable[[NDArray[np.uint8]], Tensor], device: str
    ) -> None:
        self._images, self._to_floats, self.device = images, to_floats, torch.device(device)

    def __getitem__(self, chosen: Tensor) -> Tensor:
        return self._to_floats(self._images.pixels(chosen.cpu().numpy())).to(self.device)


def client_images(
    dataset: ImageDataset, indices: NDArray[np.int64], seed: int, device: str
) -> Images:
    """Return a client's images, normalised, on ``device``."""

    def to_floats(pixels: NDArray[np.uint8]) -> Tensor:
        return to_tensor(pixels, dataset.mean, dataset.std)

    varied = VariedImages(dataset, indices, seed)
    if float_bytes(dataset, len(indices)) > LARGE_BYTES:
        return StreamedImages(varied, to_floats, device)
    return to_floats(varied.pixels()).to(device)


def float_bytes(dataset: ImageDataset, count: int) -> int:
    """Return the size of ``count`` images as float32, in bytes."""
    return 4 * count * int(np.prod(dataset.image_shape))
