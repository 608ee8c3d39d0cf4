"""Models of a user's, given as module:callable."""

from __future__ import annotations

from torch import nn


def no_bias(image_shape: tuple[int, int, int], classes: int) -> nn.Module:
    """A last layer without a bias, on features that are not negative."""
    channels, height, width = image_shape
    return nn.Sequential(
        nn.Flatten(),
        nn.Linear(channels * height * width, 64),
        nn.ReLU(),
        nn.Linear(64, classes, bias=False),
    )


def no_linear_head(image_shape: tuple[int, int, int], classes: int) -> nn.Module:
    """Convolutions only."""
    return nn.Sequential(
        nn.Conv2d(image_shape[0], classes, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten()
    )


def with_sigmoids(image_shape: tuple[int, int, int], classes: int) -> nn.Module:
    """One convolution with sigmoids, then the linear layer."""
    return nn.Sequential(
        nn.Conv2d(image_shape[0], 6, 3, 2, padding=1, bias=False),
        nn.Sigmoid(),
        nn.Flatten(),
        nn.Linear(6 * 4 * 4, classes),
    )


def with_tanh_and_biases(image_shape: tuple[int, int, int], classes: int) -> nn.Module:
    """Two convolutions with biases and tanh, padded unevenly by their strides."""
    return nn.Sequential(
        nn.Conv2d(image_shape[0], 8, 3, 2, padding=1),
        nn.Tanh(),
        nn.Conv2d(8, 24, 2, 2),
        nn.Tanh(),
        nn.Flatten(),
        nn.Linear(24 * 2 * 2, classes),
    )


def with_batch_norm(image_shape: tuple[int, int, int], classes: int) -> nn.Module:
    """Two convolutions with BatchNorm."""
    return nn.Sequential(
        nn.Conv2d(image_shape[0], 6, 3, padding=1, bias=False),
        nn.BatchNorm2d(6),
        nn.ReLU(),
        nn.Conv2d(6, 8, 3, 2, padding=1, bias=False),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(8, classes),
    )
