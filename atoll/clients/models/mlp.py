"""Linear models and multilayer perceptrons."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Annotated

from pydantic import Field
from torch import nn

from atoll.clients.ranges import Width

# At most so many as a gradient comes through.
Layers = Annotated[Sequence[Width], Field(max_length=1_000)]


def linear(image_shape: tuple[int, int, int], classes: int) -> nn.Module:
    """Return a linear classifier of the pixels (softmax regression)."""
    return nn.Sequential(nn.Flatten(), nn.Linear(math.prod(image_shape), classes))


def mlp(image_shape: tuple[int, int, int], classes: int, hidden: Layers = (200,)) -> nn.Module:
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


def boosted_mlp(image_shape: tuple[int, int, int], classes: int, hidden: Width = 200) -> nn.Module:
    """Return a network of one hidden layer whose last layer is 0: nothing is predicted at first.

    The term ``gradient-boosting`` trains it (Emami & Martinez-Munoz, 2023).

    Parameters
    ----------
    hidden : int
        Neurons, of all groups together.
    """
    last = nn.Linear(hidden, classes)
    nn.init.zeros_(last.weight)
    nn.init.zeros_(last.bias)
    return nn.Sequential(nn.Flatten(), nn.Linear(math.prod(image_shape), hidden), nn.Tanh(), last)


def irm_mlp(image_shape: tuple[int, int, int], classes: int, hidden: Width = 390) -> nn.Module:
    """Return the Colored MNIST network of the IRM paper: two hidden layers of ReLU.

    Xavier-uniform weights, zero biases, and one sigmoid logit for two classes: 392-390-390-1 on
    2x14x14 images (Arjovsky et al., 2019, arXiv 1907.02893).

    Parameters
    ----------
    hidden : int
        Units of each hidden layer.
    """
    model = mlp(image_shape, 1 if classes == 2 else classes, (hidden, hidden))
    for module in model.modules():
        if isinstance(module, nn.Linear):
            nn.init.xavier_uniform_(module.weight)
            nn.init.zeros_(module.bias)
    return model
