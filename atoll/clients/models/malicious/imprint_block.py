"""Model of a malicious server: an imprint block before a network.

Robbing the Fed (Fowl et al., 2022, arXiv 2110.13057): a linear layer measures the brightness of an
image, and each of its units fires above another threshold. A unit's gradient adds up the images
above its threshold, so the difference of neighbours holds those in between: one image, if the bin
is fine enough.
"""

from __future__ import annotations

import math
from statistics import NormalDist
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from atoll.clients.models.model_building import build_model
from atoll.clients.ranges import Deviation, Number
from atoll.clients.settings import ModelSettings
from atoll.errors import InvalidExperimentError

Distribution = Literal["normal", "laplace"]


Bins = Annotated[int, Field(ge=2, le=1_000_000)]


class ImprintBlock(nn.Module):
    """Block that adds to an image a pattern that depends on its brightness alone.

    Attributes
    ----------
    encoder : nn.Linear
        Pixels to bins; every row is the mean, and the biases are the thresholds, negated, which
        rise.
    decoder : nn.Linear
        Bins to pixels; the columns are equal, so that a bin's gradient does not depend on which
        others are active.

    Parameters
    ----------
    size : int
        Values of an image.
    thresholds : Tensor
        Shape (bins,), rising: where the units begin to fire, in units of the model's input.
    strength : float
        The standard deviation of the decoder's column.
    """

    def __init__(self, size: int, thresholds: Tensor, strength: float) -> None:
        super().__init__()
        bins = len(thresholds)
        self.encoder = nn.Linear(size, bins)
        self.decoder = nn.Linear(bins, size, bias=False)
        with torch.no_grad():
            self.encoder.weight.fill_(1 / size)
            self.encoder.bias.copy_(-thresholds)
            column = torch.randn(size, 1) * strength
            self.decoder.weight.copy_(column.expand(size, bins))

    def forward(self, x: Tensor) -> Tensor:
        """Map images (n, channels, h, w) to the same shape."""
        active = torch.relu(self.encoder(x.flatten(1)))
        changed: Tensor = x + self.decoder(active).view_as(x)
        return changed


def imprint(
    image_shape: tuple[int, int, int],
    classes: int,
    bins: Bins = 1024,
    base: str = "lenet",
    distribution: Distribution = "normal",
    center: Number = 0.0,
    spread: Deviation = 0.4,
    strength: Deviation = 1e-2,
) -> nn.Module:
    """Return an imprint block and a network.

    Parameters
    ----------
    bins : int
        Units of the block, at least 2.
    base : str
        The network behind it, a name that ``[model]`` may have.
    distribution : "normal" or "laplace"
        What the server takes the brightness of images (the mean of the normalised pixels) to be
        distributed as; thresholds are its quantiles.
    center, spread : float
        Its mean and standard deviation.
    strength : float
        How much the block changes images: the smaller, the more of its gradient is lost to the
        rounding of the weights that come back.
    """
    shares = [(index + 0.5) / bins for index in range(bins)]
    thresholds = torch.tensor([_quantile(distribution, share) for share in shares])
    block = ImprintBlock(math.prod(image_shape), center + spread * thresholds, strength)
    seed = int(torch.randint(2**31, (1,)))
    try:
        network = build_model(ModelSettings(name=base), image_shape, classes, seed)
    except InvalidExperimentError as error:
        raise ValueError(f"base: {error}") from error
    return nn.Sequential(block, network)


def _quantile(distribution: Distribution, share: float) -> float:
    """Return a quantile of the distribution with mean 0 and standard deviation 1."""
    if distribution == "normal":
        return NormalDist().inv_cdf(share)
    side = 1.0 if share > 0.5 else -1.0
    return -side * math.log(1 - 2 * abs(share - 0.5)) / math.sqrt(2)


def aim(block: ImprintBlock, images: Tensor) -> None:
    """Set a block's thresholds to the quantiles of the brightness of known images.

    Parameters
    ----------
    images : Tensor
        Normalised, shape (n, channels, height, width).
    """
    bins = block.encoder.out_features
    shares = (torch.arange(bins, dtype=torch.float64) + 0.5) / bins
    with torch.no_grad():
        found = torch.quantile(images.flatten(1).double().mean(1), shares)
        block.encoder.bias.copy_(-found)
