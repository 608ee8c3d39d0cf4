"""Base of inputs: what a stored example is, and how a batch of them becomes a tensor."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict
from torch import Tensor


class Inputs(BaseModel, ABC):
    """Base of the kinds of inputs; a data set has one, in ``dataset.json``.

    Attributes
    ----------
    kind : str
        The kind's name in files.

    Examples
    --------
    >>> from atoll.clients import load_dataset
    >>> inputs = load_dataset("digits").inputs
    >>> inputs.kind, inputs.shape, inputs.blank(2).shape
    ('images', (1, 8, 8), torch.Size([2, 1, 8, 8]))
    """

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)

    kind: str

    @property
    @abstractmethod
    def shape(self) -> tuple[int, ...]:
        """Shape of one example's tensor, as a model is given it."""

    @property
    @abstractmethod
    def stored_shape(self) -> tuple[int, ...]:
        """Shape of one example as it is stored."""

    @property
    @abstractmethod
    def stored_dtype(self) -> type[np.generic]:
        """Type of the stored numbers."""

    @property
    def dtype(self) -> torch.dtype:
        """Type of the tensor."""
        return torch.float32

    @abstractmethod
    def to_tensor(self, stored: NDArray[Any]) -> Tensor:
        """Return examples of shape ``(n, *stored_shape)`` as a model's input: ``(n, *shape)``."""

    def blank(self, *counts: int) -> Tensor:
        """Return inputs of zeros, shape ``(*counts, *shape)``, to try a model with."""
        return torch.zeros(*counts, *self.shape, dtype=self.dtype)

    def varied(self, *counts: int, generator: torch.Generator) -> Tensor:
        """Return random inputs, shape ``(*counts, *shape)``, to try a model with."""
        return torch.rand(*counts, *self.shape, generator=generator)

    @property
    @abstractmethod
    def described(self) -> str:
        """One word or two for errors and plans: "images of 1x28x28"."""

    def numbers(self, count: int) -> int:
        """Return how many numbers the tensor of ``count`` examples has."""
        return count * math.prod(self.shape)
