"""Small convolutional networks.

Their weights are laid out channels last: PyTorch's max pooling has no vectorised CPU kernel for
the other layout.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated

import torch
from pydantic import Field
from torch import nn

from atoll.clients.ranges import Decay, Deviation, Width

Slope = Annotated[float, Field(ge=1e-6, le=1e3)]
Dropout = Annotated[tuple[Decay, Decay], Field(strict=False)]


def _channels_last(model: nn.Sequential) -> nn.Module:
    # PyTorch's stubs do not know the argument by itself.
    return model.to(memory_format=torch.channels_last)  # type: ignore[call-overload, no-any-return]


def lenet(image_shape: tuple[int, int, int], classes: int) -> nn.Module:
    """Return a network in the manner of LeNet-5 (LeCun et al., 1998), with ReLU and max pooling.

    On 28x28 grey images it has the layers of LeNet-5 (61,706 parameters); images of 8x8 and more
    will do.
    """
    channels, height, width = image_shape
    model = nn.Sequential(
        nn.Conv2d(channels, 6, 5, padding=2),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(6, 16, 5, padding=0 if min(height, width) >= 28 else 2),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(_lenet_features(height, width), 120),
        nn.ReLU(),
        nn.Linear(120, 84),
        nn.ReLU(),
        nn.Linear(84, classes),
    )
    return _channels_last(model)


def _lenet_features(height: int, width: int) -> int:
    lost = 4 if min(height, width) >= 28 else 0
    return 16 * ((height // 2 - lost) // 2) * ((width // 2 - lost) // 2)


def sigmoid_lenet(
    image_shape: tuple[int, int, int], classes: int, spread: Deviation = 0.5
) -> nn.Module:
    """Return the network on which gradient inversion was first shown: LeNet with sigmoids.

    Three 5x5 convolutions of 12 channels, of strides 2, 2 and 1, and a linear layer; all weights
    and biases are uniform in [-spread, spread] (Zhu et al., 2019; 13,426 parameters on 28x28 grey
    images of 10 classes).

    Parameters
    ----------
    spread : float
        Of the parameters, positive.
    """
    model = _strided_lenet(image_shape, classes, nn.Sigmoid)
    for parameter in model.parameters():
        nn.init.uniform_(parameter, -spread, spread)
    return model


def relu_lenet(image_shape: tuple[int, int, int], classes: int) -> nn.Module:
    """Return the layers of 'lenet-sigmoid' with ReLU and PyTorch's own initialisation."""
    return _strided_lenet(image_shape, classes, nn.ReLU)


def _strided_lenet(
    image_shape: tuple[int, int, int], classes: int, activation: Callable[[], nn.Module]
) -> nn.Module:
    channels, height, width = image_shape
    return nn.Sequential(
        nn.Conv2d(channels, 12, 5, 2, padding=2),
        activation(),
        nn.Conv2d(12, 12, 5, 2, padding=2),
        activation(),
        nn.Conv2d(12, 12, 5, 1, padding=2),
        activation(),
        nn.Flatten(),
        nn.Linear(12 * -(-height // 4) * -(-width // 4), classes),
    )


def leaky_cnn(image_shape: tuple[int, int, int], classes: int, slope: Slope = 0.2) -> nn.Module:
    """Return two convolutions with leaky ReLU and a linear layer: each layer can be inverted.

    Neither convolution has a bias, and no activation throws anything away, as R-GAP needs it (Zhu
    and Blaschko, 2021).

    Parameters
    ----------
    slope : float
        Of the activation below zero, positive.
    """
    channels, height, width = image_shape
    return nn.Sequential(
        nn.Conv2d(channels, 6 * channels, 5, 2, padding=2, bias=False),
        nn.LeakyReLU(slope),
        nn.Conv2d(6 * channels, 16 * channels, 3, 2, padding=1, bias=False),
        nn.LeakyReLU(slope),
        nn.Flatten(),
        nn.Linear(16 * channels * -(-height // 4) * -(-width // 4), classes),
    )


def small_cnn(image_shape: tuple[int, int, int], classes: int) -> nn.Module:
    """Return two convolutions and a linear layer: about 18,000 parameters on 28x28 grey images."""
    channels, height, width = image_shape
    model = nn.Sequential(
        nn.Conv2d(channels, 8, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(8, 24, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(24 * (height // 4) * (width // 4), classes + 4),
        nn.ReLU(),
        nn.Linear(classes + 4, classes),
    )
    return _channels_last(model)


def benchmark_cnn(
    image_shape: tuple[int, int, int], classes: int, dropout: Dropout = (0.25, 0.5)
) -> nn.Module:
    """Return the CNN of the pfl-research benchmark: 1.63 M parameters on 32x32 colour images.

    Two 3x3 convolutions without padding (32 and 64 channels), 2x2 max pooling, dropout, a layer
    of 128 units, dropout, and the classes; Glorot-uniform weights, PyTorch's own biases.

    Parameters
    ----------
    dropout : tuple[float, float]
        The share of values that the first and the second dropout set to zero.
    """
    channels, height, width = image_shape
    model = nn.Sequential(
        nn.Conv2d(channels, 32, 3),
        nn.ReLU(),
        nn.Conv2d(32, 64, 3),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Dropout(dropout[0]),
        nn.Flatten(),
        nn.Linear(64 * ((height - 4) // 2) * ((width - 4) // 2), 128),
        nn.ReLU(),
        nn.Dropout(dropout[1]),
        nn.Linear(128, classes),
    )
    for module in model:
        if isinstance(module, nn.Conv2d | nn.Linear):
            nn.init.xavier_uniform_(module.weight)
    return _channels_last(model)


def domainbed_cnn(image_shape: tuple[int, int, int], classes: int, width: Width = 64) -> nn.Module:
    """Return DomainBed's network for MNIST: four 3x3 convolutions, GroupNorm, mean pooling.

    Each convolution is followed by ReLU and then by GroupNorm of 8 groups; the second has stride 2
    (Gulrajani and Lopez-Paz, 2021, arXiv 2007.01434, appendix; 371,850 parameters on 28x28 grey
    images of 10 classes).

    Parameters
    ----------
    width : int
        Channels of the first convolution, a multiple of 8; the others have twice as many.
    """
    if width % 8:
        raise ValueError(f"width = {width}: expected a multiple of 8")
    layers: list[nn.Module] = []
    inputs = image_shape[0]
    for outputs, stride in ((width, 1), (2 * width, 2), (2 * width, 1), (2 * width, 1)):
        layers += [
            nn.Conv2d(inputs, outputs, 3, stride, padding=1),
            nn.ReLU(),
            nn.GroupNorm(8, outputs),
        ]
        inputs = outputs
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(inputs, classes))
