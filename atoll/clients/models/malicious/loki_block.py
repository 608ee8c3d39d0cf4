"""Model of a malicious server: an imprint block behind kernels that are each client's own.

LOKI (Zhao et al., "LOKI: Large-scale Data Reconstruction Attack against Federated Learning through
Model Manipulation", S&P 2024, arXiv 2303.12233): a convolution has a set of kernels for each client
of a round. The server sends each client a copy in which its own set is the identity and all others
are zero. The linear layer behind it has columns for every set, and an example has a gradient by the
columns of its client's set alone: the sum over clients keeps them apart.

A unit of the linear layer is cut off at 0 and 1, so that it has a gradient by the examples alone
whose brightness lies between its threshold and the next one.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn.functional import hardtanh

from atoll.clients.models.malicious.imprint_block import Bins, Distribution, quantile
from atoll.clients.models.model_building import build_model
from atoll.clients.ranges import Deviation, Number, Positive
from atoll.clients.settings import ModelSettings
from atoll.errors import InvalidExperimentError

Sets = Annotated[int, Field(ge=1, le=10_000)]
Shift = Annotated[float, Field(ge=0.0, le=1e3)]
# Side of the kernels, as in the released code.
SIDE = 3


class LokiBlock(nn.Module):
    """Block that adds to an image a pattern that depends on its brightness alone.

    Attributes
    ----------
    kernels : nn.Conv2d
        ``sets`` times as many kernels as an image has channels. Those of the first set are the
        identity, times ``scale``; the others are zero, and the server moves the set to another
        place for each client (:func:`kernels_of_set`).
    encoder : nn.Linear
        All sets' values to bins. Every row has equal weights; unit k is 0 at its threshold of the
        brightness, and 1 at the next one.
    decoder : nn.Linear
        Bins to an image's values; the columns are equal.

    Parameters
    ----------
    image_shape : tuple[int, int, int]
        Channels, height, width.
    sets : int
        Sets of kernels.
    thresholds : Tensor
        Shape (bins + 1,), rising: the bins' ends, in units of the model's input.
    scale : float
        What the kernels multiply images by; the encoder divides by it.
    shift : float
        What is added to images before they are scaled, so that no value is below zero.
    strength : float
        Deviation of the pattern where all units are 1.
    """

    def __init__(
        self,
        image_shape: tuple[int, int, int],
        sets: int,
        thresholds: Tensor,
        scale: float,
        shift: float,
        strength: float,
    ) -> None:
        super().__init__()
        channels, size, bins = image_shape[0], math.prod(image_shape), len(thresholds) - 1
        self.sets = sets
        self.kernels = nn.Conv2d(channels, sets * channels, SIDE, padding=SIDE // 2)
        self.encoder = nn.Linear(sets * size, bins)
        self.decoder = nn.Linear(bins, size, bias=False)
        widths = thresholds.diff()
        with torch.no_grad():
            self.kernels.weight.zero_()
            self.kernels.bias.zero_()  # type: ignore[union-attr]
            for channel in range(channels):
                self.kernels.weight[channel, channel, SIDE // 2, SIDE // 2] = scale
                self.kernels.bias[channel] = scale * shift  # type: ignore[index]
            rows = 1 / (scale * size * widths)
            self.encoder.weight.copy_(rows[:, None].expand(bins, sets * size))
            self.encoder.bias.copy_(-(thresholds[:-1] + shift) / widths)
            column = torch.randn(size, 1) * strength / bins
            self.decoder.weight.copy_(column.expand(size, bins))

    def forward(self, x: Tensor) -> Tensor:
        """Map images (n, channels, h, w) to the same shape."""
        apart = torch.relu(self.kernels(x))
        active = hardtanh(self.encoder(apart.flatten(1)), 0.0, 1.0)
        changed: Tensor = x + self.decoder(active).view_as(x)
        return changed


def loki(
    image_shape: tuple[int, int, int],
    classes: int,
    sets: Sets = 1,
    bins: Bins = 1024,
    base: str = "lenet",
    distribution: Distribution = "normal",
    center: Number = 0.0,
    spread: Deviation = 0.4,
    scale: Positive = 500.0,
    shift: Shift = 4.0,
    strength: Deviation = 1.0,
) -> nn.Module:
    """Return LOKI's block and a network.

    Parameters
    ----------
    sets : int
        Sets of kernels: at least as many as a round has clients, to keep them apart.
    bins : int
        Units of the block, at least 2.
    base : str
        The network behind it, a name that ``[model]`` may have.
    distribution : "normal" or "laplace"
        What the server takes the brightness of images (the mean of the normalised pixels) to be
        distributed as; thresholds are its quantiles.
    center : float
        The distribution's mean.
    spread : float
        The distribution's standard deviation.
    scale : float
        LOKI's convolutional scaling factor; 500 in the released code. Weights behind the kernels
        are that much smaller, and their gradients that much larger.
    shift : float
        Added to normalised pixels by the kernels' biases: at least the size of the darkest pixel,
        which would be cut off otherwise.
    strength : float
        How much the block changes images: the smaller, the more of its gradient is lost to the
        rounding of what comes back.
    """
    ends = [(index + 0.5) / (bins + 1) for index in range(bins + 1)]
    thresholds = center + spread * torch.tensor([quantile(distribution, share) for share in ends])
    block = LokiBlock(image_shape, sets, thresholds, scale, shift, strength)
    seed = int(torch.randint(2**31, (1,)))
    try:
        network = build_model(ModelSettings(name=base), image_shape, classes, seed)
    except InvalidExperimentError as error:
        raise ValueError(f"base: {error}") from error
    return nn.Sequential(block, network)


def block_prefix(names: Iterable[str]) -> str | None:
    """Return what the names of a LOKI block's parameters begin with, or None if there is none.

    Parameters
    ----------
    names : Iterable[str]
        Of a model's parameters.

    Examples
    --------
    >>> from atoll.clients.models.malicious.loki_block import block_prefix
    >>> block_prefix(["0.kernels.weight", "0.encoder.weight", "1.weight"])
    '0.'
    """
    present = set(names)
    for name in present:
        prefix = name.removesuffix("kernels.weight")
        if prefix != name and f"{prefix}encoder.weight" in present:
            return prefix
    return None


def kernels_of_set(kernels: Mapping[str, Tensor], place: int) -> dict[str, Tensor]:
    """Return the first set's kernels and biases at the place of another set.

    Parameters
    ----------
    kernels : Mapping[str, Tensor]
        "weight", shape (sets * channels, channels, 3, 3), and "bias", shape (sets * channels,).
    place : int
        Which set, from 0.

    Examples
    --------
    >>> import torch
    >>> from atoll.clients.models.malicious.loki_block import kernels_of_set
    >>> one = {"weight": torch.tensor([2.0, 0.0, 0.0]).view(3, 1, 1, 1), "bias": torch.zeros(3)}
    >>> kernels_of_set(one, 2)["weight"].flatten()
    tensor([0., 0., 2.])
    """
    channels = kernels["weight"].shape[1]
    return {name: values.roll(place * channels, 0) for name, values in kernels.items()}
