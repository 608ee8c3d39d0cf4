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
