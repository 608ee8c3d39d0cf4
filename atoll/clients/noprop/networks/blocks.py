"""Blocks: networks from an example and a noisy label embedding to logits.

The layer in which the paths meet is kept as one part a path, so that what depends on the example
alone (:meth:`Block.features`) is computed once, however many steps follow. The sum of the parts is
the paper's layer on the concatenated paths.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from atoll.clients.data.inputs.base import Inputs
from atoll.clients.data.inputs.images import ImageInputs
from atoll.clients.encoders import vector_encoder

Norm = Literal["batch", "group", "none"]
BlockName = Literal["paper", "half", "small"]

GROUPS = 8
TIME_FEATURES = 64
# The slowest of the time features turns once in so many units of the fastest one's turn.
TIME_SPAN = 10_000.0


@dataclass(frozen=True)
class BlockSize:
    """Size of a block.

    Attributes
    ----------
    channels : tuple[int, ...]
        Of its 3x3 convolutions. Three are pooled after the first and the last, as in the paper;
        two have stride 2.
    width : int
        Units of the paths and of the layer in which they meet.
    last : int or None
        Units of the layer before the logits; None for no such layer.
    dropout : float
        In the image path, unless the experiment says otherwise.
    """

    channels: tuple[int, ...]
    width: int
    last: int | None
    dropout: float


BLOCK_SIZES: Mapping[str, BlockSize] = {
    "paper": BlockSize((32, 64, 128), 256, 128, 0.2),
    "half": BlockSize((16, 32, 64), 128, 64, 0.1),
    "small": BlockSize((8, 16), 64, None, 0.0),
}


class ByteDropout(nn.Module):
    """Dropout that draws a byte a unit: an eighth of the random numbers, and a mask of bytes.

    Parameters
    ----------
    probability : float
        In [0, 1); rounded to a multiple of 1/256.
    """

    def __init__(self, probability: float) -> None:
        super().__init__()
        self.threshold = round(probability * 256)

    def forward(self, x: Tensor) -> Tensor:
        """Zero each unit with the probability, and scale the others; in training only."""
        if not self.training or self.threshold == 0:
            return x
        words = torch.empty(-(-x.numel() // 8), dtype=torch.int64, device=x.device)
        drawn = words.random_(-(2**63), None).view(torch.uint8)[: x.numel()]
        # The mask lies in memory as x does, whatever its layout is.
        kept = (drawn >= self.threshold).as_strided(x.shape, x.stride())
        scaled: Tensor = (x * kept).mul_(256 / (256 - self.threshold))
        return scaled


class TimeFeatures(nn.Module):
    """Sines and cosines of a time in [0, 1]: shape (n,) to (n, 64)."""

    def forward(self, time: Tensor) -> Tensor:
        """Return the features."""
        places = torch.arange(TIME_FEATURES // 2, dtype=time.dtype, device=time.device)
        rates = TIME_SPAN ** (-places / (TIME_FEATURES // 2)) * 1000
        angles: Tensor = time.unsqueeze(-1) * rates
        return torch.cat([angles.sin(), angles.cos()], -1)


class LabelPath(nn.Module):
    """Two layers with a residual around the second part (the paper's Fig. 6, DT)."""

    def __init__(self, dimension: int, width: int, norm: Norm) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.Linear(dimension, width), _norm(norm, width), nn.ReLU())
        self.residual = nn.Sequential(
            nn.Linear(width, width),
            _norm(norm, width),
            nn.ReLU(),
            nn.Linear(width, width),
            _norm(norm, width),
        )

    def forward(self, z: Tensor) -> Tensor:
        """Map (n, dimension) to (n, width)."""
        first: Tensor = self.first(z)
        total: Tensor = first + self.residual(first)
        return total


class Block(nn.Module):
    """A block.

    Parameters
    ----------
    inputs : Inputs
        What the network is given.
    classes : int
        The number of logits.
    dimension : int
        Of the label's embedding.
    size : BlockSize
        How large it is.
    norm : "batch", "group" or "none"
        After linear layers. BatchNorm's statistics are buffers of the block, and travel with it.
    timed : bool
        Whether it takes the time (CT and FM), with the simpler label path that goes with it.
    label_image : bool
        Whether embeddings are images (prototypes), for which the label path has convolutions.
    dropout : float
        In the image path.
    precision : torch.dtype
        Of the convolutions' arithmetic; parameters are float32.
    """

    def __init__(
        self,
        inputs: Inputs,
        classes: int,
        dimension: int,
        size: BlockSize,
        norm: Norm,
        *,
        timed: bool = False,
        label_image: bool = False,
        dropout: float = 0.0,
        precision: torch.dtype = torch.float32,
    ) -> None:
        super().__init__()
        width, self._precision = size.width, precision
        self._label_shape = inputs.shape if label_image else (dimension,)
        self.image = _input_path(inputs, size, norm, dropout, activate=timed)
        if label_image:
            self.label: nn.Module = _input_path(inputs, size, norm, 0.0, activate=True)
        elif timed:
            self.label = nn.Sequential(nn.Linear(dimension, width), nn.ReLU())
        else:
            self.label = LabelPath(dimension, width, norm)
        self.time = (
            nn.Sequential(TimeFeatures(), nn.Linear(TIME_FEATURES, width), nn.ReLU())
            if timed
            else None
        )
        # The three parts of one layer on the concatenated paths, initialised as that layer is.
        paths = 3 if timed else 2
        joint = nn.Linear(paths * width, width)
        self.from_image = _part(joint, 0, width, bias=True)
        self.from_label = _part(joint, 1, width, bias=False)
        self.from_time = _part(joint, 2, width, bias=False) if timed else None
        self.top = _top(width, size.last, classes, norm)

    def features(self, images: Tensor) -> Tensor:
        """Return the block's features of inputs: (n, ...) to (n, width)."""
        if self._precision is not torch.float32:
            with torch.autocast(images.device.type, self._precision):
                paths = self.image(images)
            return self.from_image(paths.float())  # type: ignore[no-any-return]
        return self.from_image(self.image(images))  # type: ignore[no-any-return]

    def logits(self, features: Tensor, z: Tensor, time: Tensor | None = None) -> Tensor:
        """Return the logits.

        Parameters
        ----------
        features : Tensor
            From :meth:`features`, shape (n, width).
        z : Tensor
            Noisy embeddings, shape (n, dimension).
        time : Tensor, optional
            In [0, 1], shape (n,) or (1,), for a block that takes it.
        """
        joint = features + self.from_label(self.label(z.view(-1, *self._label_shape)))
        if self.time is not None and self.from_time is not None:
            joint = joint + self.from_time(self.time(time))
        return self.top(joint)  # type: ignore[no-any-return]

    def forward(self, images: Tensor, z: Tensor, time: Tensor | None = None) -> Tensor:
        """Return the logits of images with noisy embeddings."""
        return self.logits(self.features(images), z, time)


def _norm(norm: Norm, width: int) -> nn.Module:
    if norm == "batch":
        return nn.BatchNorm1d(width)
    return nn.GroupNorm(GROUPS, width) if norm == "group" else nn.Identity()


def _part(joint: nn.Linear, place: int, width: int, *, bias: bool) -> nn.Linear:
    part = nn.Linear(width, width, bias=bias)
    with torch.no_grad():
        part.weight.copy_(joint.weight[:, place * width : (place + 1) * width])
        if bias:
            part.bias.copy_(joint.bias)
    return part


def _top(width: int, last: int | None, classes: int, norm: Norm) -> nn.Sequential:
    layers: list[nn.Module] = [_norm(norm, width), nn.ReLU()]
    if last is not None:
        layers += [nn.Linear(width, last), _norm(norm, last), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(last or width, classes))


def _input_path(
    inputs: Inputs,
    size: BlockSize,
    norm: Norm,
    dropout: float,
    *,
    activate: bool,
) -> nn.Sequential:
    """Return the layers from the inputs; ``activate`` ends them in a ReLU.

    Of images they are convolutions and a layer after them; of tables and texts an encoder to
    vectors and two layers.
    """
    end = nn.ReLU() if activate else _norm(norm, size.width)
    if not isinstance(inputs, ImageInputs):
        dense = dense_part(inputs, size, dropout)
        return nn.Sequential(*dense, nn.Linear(size.width, size.width), end)
    image_shape = inputs.image_shape
    convolutions = convolutional_part(image_shape, size, dropout)
    path = nn.Sequential(
        *convolutions, nn.Flatten(), nn.Linear(flat_features(image_shape, size), size.width), end
    )
    # The weights' layout; PyTorch's max pooling has no vectorised kernel for the other one.
    return path.to(memory_format=torch.channels_last)  # type: ignore[call-overload, no-any-return]


def dense_part(inputs: Inputs, size: BlockSize, dropout: float) -> list[nn.Module]:
    """Return a block's encoder of a table or a text, and the layer after it."""
    encoder, width = vector_encoder(inputs, size.width)
    return [encoder, nn.Linear(width, size.width), nn.ReLU(), nn.Dropout(dropout)]


def convolutional_part(
    image_shape: tuple[int, int, int], size: BlockSize, dropout: float
) -> list[nn.Module]:
    """Return a block's convolutions with what goes between them.

    Pooling comes before the ReLU, which is the same function at a quarter of the work.
    """
    layers: list[nn.Module] = []
    inputs, pooled = image_shape[0], len(size.channels) == 3
    for place, outputs in enumerate(size.channels):
        layers.append(nn.Conv2d(inputs, outputs, 3, 1 if pooled else 2, padding=1))
        if pooled and place != 1:
            layers.append(nn.MaxPool2d(2))
        layers += [nn.ReLU(), ByteDropout(dropout)]
        inputs = outputs
    return layers


def flat_features(image_shape: tuple[int, int, int], size: BlockSize) -> int:
    """Return the units that :func:`convolutional_part` gives.

    Raises
    ------
    ValueError
        If the images are too small to be halved twice.
    """
    height, width = image_shape[1:]
    if min(height, width) < 4:
        raise ValueError(f"images of {height}x{width}: expected at least 4x4")
    if len(size.channels) == 3:
        return size.channels[-1] * (height // 4) * (width // 4)
    return size.channels[-1] * math.ceil(height / 4) * math.ceil(width / 4)
