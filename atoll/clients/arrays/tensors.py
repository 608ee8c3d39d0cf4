"""Values of Flower arrays as tensors."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from flwr.app import Array
from torch import Tensor

from atoll.flower.arrays import view


def tensor_of(array: Array) -> Tensor:
    """Return an array's values as a tensor that may be changed: a copy."""
    return torch.from_numpy(np.array(view(array)))


def tensors_of(arrays: Mapping[str, Array]) -> dict[str, Tensor]:
    """Return the values of named arrays as tensors that may be changed: copies."""
    return {key: tensor_of(array) for key, array in arrays.items()}
