"""Models without convolutions."""

from __future__ import annotations

import math
from collections.abc import Sequence

from torch import nn


def linear(image_shape: tuple[int, int, int], classes: int) -> nn.Module:
    """Return a linear classifier of the pixels (softmax regression)."""
    return nn.Sequential(nn.Flatten(), nn.Linear(math.prod(image_shape), classes))


def mlp(
    image_shape: tuple[int, int, int], classes: int, hidden: Sequence[int] = (200,)
) -> nn.Module:
    """Return a multilayer perceptron with ReLU.

    Parameters
    ----------
    hidden : Sequence[int]
        Units of each hidden layer.
    """
    layers: list[nn.Module] = [nn.Flatten()]
    width = math.prod(image_shape)
    for units in hidden:
        layers += [nn.Linear(width, units), nn.ReLU()]
        width = units
    return nn.Sequential(*layers, nn.Linear(width, classes))
