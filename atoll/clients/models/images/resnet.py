"""Residual networks for small images (He et al., 2016), with GroupNorm or BatchNorm.

GroupNorm (Wu and He, 2018) has no running statistics, so averaging clients' models averages all
there is; it is the default. "frozen" is BatchNorm with mean 0 and variance 1, as untrained
networks have it that are only ever run in evaluation mode: the setting of most gradient inversions.
It wants ``init = "he"`` (He et al., 2015, normal by fan-out): under PyTorch's own initialisation,
the default, signals shrink from layer to layer where no norm scales them up again.
"""

from __future__ import annotations

from typing import Literal

from torch import Tensor, nn

from atoll.clients.models.images.resnet50 import FrozenBatchNorm2d
from atoll.clients.ranges import Width

Norm = Literal["group", "batch", "frozen"]
Init = Literal["default", "he"]


def _norm(kind: Norm, channels: int) -> nn.Module:
    if kind == "group":
        return nn.GroupNorm(max(1, min(32, channels // 4)), channels)
    if kind == "batch":
        return nn.BatchNorm2d(channels)
    if kind == "frozen":
        return FrozenBatchNorm2d(channels, 1e-5)
    raise ValueError(f"norm = {kind!r}: expected 'group', 'batch' or 'frozen'")


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions beside a shortcut (1x1 where the shape changes)."""

    def __init__(self, inputs: int, outputs: int, stride: int, norm: Norm) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False),
            _norm(norm, outputs),
            nn.ReLU(),
            nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False),
            _norm(norm, outputs),
        )
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or inputs != outputs:
            self.shortcut = nn.Sequential(
                nn.Conv2d(inputs, outputs, 1, stride, bias=False), _norm(norm, outputs)
            )
        self.activation = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        """Map (n, inputs, h, w) to (n, outputs, h / stride, w / stride)."""
        total: Tensor = self.body(x) + self.shortcut(x)
        activated: Tensor = self.activation(total)
        return activated


def _resnet(
    image_shape: tuple[int, int, int],
    classes: int,
    widths: tuple[int, ...],
    blocks: int,
    norm: Norm,
    init: Init,
) -> nn.Module:
    layers: list[nn.Module] = [
        nn.Conv2d(image_shape[0], widths[0], 3, 1, 1, bias=False),
        _norm(norm, widths[0]),
        nn.ReLU(),
    ]
    inputs = widths[0]
    for stage, width in enumerate(widths):
        for block in range(blocks):
            stride = 2 if stage > 0 and block == 0 else 1
            layers.append(ResidualBlock(inputs, width, stride, norm))
            inputs = width
    pooled = [nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    model = nn.Sequential(*layers, *pooled, nn.Linear(inputs, classes))
    _initialize(model, init)
    return model


def _initialize(model: nn.Module, init: Init) -> None:
    if init == "he":
        for module in model.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
    elif init != "default":
        raise ValueError(f"init = {init!r}: expected 'default' or 'he'")


def resnet8(
    image_shape: tuple[int, int, int], classes: int, norm: Norm = "group", init: Init = "default"
) -> nn.Module:
    """Return a ResNet-8: three stages of one block, 16 to 64 channels.

    Parameters
    ----------
    norm : "group", "batch" or "frozen"
        How activations are normalised; "frozen" is BatchNorm with mean 0 and variance 1.
    init : "default" or "he"
        PyTorch's own initialisation, or that of He et al. (2015), which "frozen" wants.
    """
    return _resnet(image_shape, classes, (16, 32, 64), 1, norm, init)


def resnet18(
    image_shape: tuple[int, int, int],
    classes: int,
    norm: Norm = "group",
    init: Init = "default",
    width: Width = 64,
) -> nn.Module:
    """Return a ResNet-18 for small images: no max pooling, first convolution 3x3 (11.2 M).

    Parameters
    ----------
    norm : "group", "batch" or "frozen"
        How activations are normalised; "frozen" is BatchNorm with mean 0 and variance 1.
    init : "default" or "he"
        PyTorch's own initialisation, or that of He et al. (2015), which "frozen" wants.
    width : int
        Channels of the first stage; the others have 2, 4 and 8 times as many. 16 is a quarter of
        ResNet-18's (0.7 M).
    """
    widths = (width, 2 * width, 4 * width, 8 * width)
    return _resnet(image_shape, classes, widths, 2, norm, init)
