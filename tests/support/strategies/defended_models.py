"""Small models that one method or one defense needs, for the table of both."""

from __future__ import annotations

from torch import nn

from atoll.clients.models.images.gaussian_model import gaussian_representation
from atoll.clients.models.variational_bottleneck import precode


def gaussian(image_shape: tuple[int, int, int], classes: int) -> nn.Module:
    return gaussian_representation(image_shape, classes, body="mlp", hidden=[4])


def bottleneck(image_shape: tuple[int, int, int], classes: int) -> nn.Module:
    return precode(image_shape, classes, base="mlp", hidden=[4], width=3)
