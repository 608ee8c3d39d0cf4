"""Inputs of a client in training: in memory, or read batch by batch if they are many."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from atoll.clients.data.files.dataset import Dataset
from atoll.clients.data.images.augmentation import Augmentation, draw_augmentation, vary_pixels
from atoll.clients.data.inputs.base import Inputs

# A client with larger inputs than this (bytes) has no more than a batch of them in memory.
LARGE_BYTES = 2 * 2**30


class ClientInputs(Protocol):
    """Inputs of a client, shape (n, ...): a tensor or a reader."""

    @property
    def device(self) -> torch.device:
        """Device on which they are used."""

    def __getitem__(self, chosen: Tensor) -> Tensor:
        """Return the inputs of these indices."""


class StoredInputs:
    """Examples of a data set's training split; images varied as ``data.options.augmentation`` says.

    Parameters
    ----------
    dataset : Dataset
        The data set.
    indices : NDArray[int64]
        Shape (n,): which training examples.
    seed : int
        Decides how they are varied; any subset of them is varied as all are.
    """

    def __init__(self, dataset: Dataset, indices: NDArray[np.int64], seed: int) -> None:
        self._stored, self._indices = dataset.train.inputs, indices
        self._augmentation: Augmentation | None = None
        if dataset.augmentation != "none":
            aspects = dataset.train.aspects
            own = np.ones(len(indices), np.float32) if aspects is None else aspects[indices]
            self._augmentation = draw_augmentation(dataset.augmentation, own, seed)

    def read(self, chosen: NDArray[np.int64] | None = None) -> NDArray[Any]:
        """Return the examples numbered ``chosen`` of the n, or all: (m, *stored_shape)."""
        if chosen is None:
            chosen = np.arange(len(self._indices))
        stored = self._stored[self._indices[chosen]]
        if self._augmentation is None:
            return stored
        return vary_pixels(self._augmentation, stored, chosen)


class StreamedInputs:
    """Inputs that are read when a batch asks for them.

    Parameters
    ----------
    stored : StoredInputs
        The client's.
    inputs : Inputs
        How they become tensors.
    device : str
        Where batches are put.
    """

    def __init__(self, stored: StoredInputs, inputs: Inputs, device: str) -> None:
        self._stored, self._inputs, self.device = stored, inputs, torch.device(device)

    def __getitem__(self, chosen: Tensor) -> Tensor:
        return self._inputs.to_tensor(self._stored.read(chosen.cpu().numpy())).to(self.device)


def client_inputs(
    dataset: Dataset, indices: NDArray[np.int64], seed: int, device: str
) -> ClientInputs:
    """Return a client's inputs as a model is given them, on ``device``."""
    stored = StoredInputs(dataset, indices, seed)
    if tensor_bytes(dataset.inputs, len(indices)) > LARGE_BYTES:
        return StreamedInputs(stored, dataset.inputs, device)
    return dataset.inputs.to_tensor(stored.read()).to(device)


def tensor_bytes(inputs: Inputs, count: int) -> int:
    """Return the size of ``count`` inputs as a tensor, in bytes."""
    return inputs.dtype.itemsize * inputs.numbers(count)
