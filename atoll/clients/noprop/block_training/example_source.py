"""Examples of the memory-mapped data set, batches of which are made when they are used."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from atoll.clients.data.files.dataset import Dataset, Split


class ExampleSource(Protocol):
    """Examples that a unit can be trained on."""

    def __len__(self) -> int:
        """Return how many there are."""

    def images(self, chosen: Tensor) -> Tensor:
        """Return images, normalised: shape (n, channels, height, width)."""

    def labels(self, chosen: Tensor) -> Tensor:
        """Return labels: shape (n,)."""


@dataclass(frozen=True)
class GivenExamples:
    """Examples that are in memory already.

    Attributes
    ----------
    all_images : Tensor
        Normalised, shape (n, channels, height, width).
    all_labels : Tensor
        int64, shape (n,).
    """

    all_images: Tensor
    all_labels: Tensor

    def __len__(self) -> int:
        return len(self.all_labels)

    def images(self, chosen: Tensor) -> Tensor:
        """Return images, normalised: shape (n, channels, height, width)."""
        return self.all_images[chosen]

    def labels(self, chosen: Tensor) -> Tensor:
        """Return labels: shape (n,)."""
        return self.all_labels[chosen]


class Examples:
    """Some examples of a split: bytes that all processes of a machine share.

    Parameters
    ----------
    dataset : Dataset
        Says how examples become inputs.
    split : Split
        One of its splits.
    indices : NDArray[int64]
        Which of its examples.
    device : str
        Where batches are to be.
    """

    def __init__(
        self, dataset: Dataset, split: Split, indices: NDArray[np.int64], device: str = "cpu"
    ) -> None:
        self._dataset = dataset
        self._split = split
        self._indices = indices
        self._device = device

    def __len__(self) -> int:
        return len(self._indices)

    def images(self, chosen: Tensor) -> Tensor:
        """Return inputs as a network is given them: shape (n, ...)."""
        stored = self._split.inputs[self._indices[chosen.numpy()]]
        return self._dataset.inputs.to_tensor(stored).to(self._device)

    def labels(self, chosen: Tensor) -> Tensor:
        """Return labels: shape (n,)."""
        labels = self._split.labels[self._indices[chosen.numpy()]]
        return torch.from_numpy(labels).to(self._device)
