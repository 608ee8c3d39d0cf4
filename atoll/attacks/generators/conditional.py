"""Class-conditional generator for images of a few dozen pixels a side.

A linear layer from the latent and the class, a convolution, transposed convolutions that double the
image, and a last convolution to its channels.
"""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Generator as RandomState
from torch import Tensor, nn

from atoll.attacks.generators.staged_generator import Features, StagedGenerator
from atoll.errors import InvalidExperimentError

EMBEDDING = 32
GROUPS = 8
LEAK = 0.2
# The image is halved while it is larger, to find the size that the linear layer makes.
BASE = 8


class ConditionalGenerator(StagedGenerator):
    """A generator of images of given classes: the latent, then the input of each convolution.

    At 28x28 and 32x32 that is five stages.

    Parameters
    ----------
    image_shape : tuple[int, int, int]
        Channels, height, width; both sides even, and halved alike.
    classes : int
        How many there are.
    latent : int
        The latent's length.
    width : int
        Channels at the smallest size, a multiple of 8; halved at each doubling, and rounded down to
        one.

    Attributes
    ----------
    mean, factor : Tensor
        Shape (classes, latent) and (classes, latent, latent): a standard normal latent e stands
        for ``mean + factor e`` of its class, see
        :meth:`~atoll.attacks.generators.vae_training.GeneratorTraining.finish`.

    Raises
    ------
    InvalidExperimentError
        If the image has an odd side.
    """

    mean: Tensor
    factor: Tensor

    def __init__(
        self, image_shape: tuple[int, int, int], classes: int, latent: int = 64, width: int = 64
    ) -> None:
        super().__init__()
        channels, *sides = image_shape
        sizes = [tuple(sides)]
        while len(sizes) == 1 or max(sizes[-1]) > BASE:
            if sizes[-1][0] % 2 or sizes[-1][1] % 2:
                raise InvalidExperimentError(
                    f"images of {sides[0]}x{sides[1]} cannot be generated; expected sides that can "
                    f"be halved until they are at most {BASE}"
                )
            sizes.append((sizes[-1][0] // 2, sizes[-1][1] // 2))
        doublings = len(sizes) - 1
        halved = [max(width >> doubling, GROUPS) for doubling in range(doublings + 1)]
        widths = [size - size % GROUPS for size in halved]
        self.latent = latent
        self.embedding = nn.Embedding(classes, EMBEDDING)
        self.register_buffer("mean", torch.zeros(classes, latent))
        self.register_buffer("factor", torch.eye(latent).repeat(classes, 1, 1))
        first = nn.Linear(latent + EMBEDDING, width * sizes[-1][0] * sizes[-1][1])
        parts = [
            nn.Sequential(first, nn.Unflatten(1, (width, *sizes[-1])), *_normalized(width)),
            nn.Sequential(nn.Conv2d(width, width, 3, padding=1), *_normalized(width)),
        ]
        for inputs, outputs in pairwise(widths):
            grow = nn.ConvTranspose2d(inputs, outputs, 4, 2, 1)
            parts.append(nn.Sequential(grow, *_normalized(outputs)))
        self.parts = nn.ModuleList(parts)
        self.last = nn.Conv2d(widths[-1], channels, 3, padding=1)
        self.stages = len(parts) + 1
        self.image_shape = image_shape
        self.classes = classes

    def init(self, labels: Tensor, random: RandomState) -> Features:
        """Draw latents of shape (n, latent); their classes stay with them."""
        latent = torch.randn(len(labels), self.latent, generator=random).to(labels.device)
        return Features({"latent": latent}, {"labels": labels})

    def advance(self, stage: int, features: Features) -> Features:
        """Go through a part."""
        if stage == 0:
            latent, labels = features.free["latent"], features.fixed["labels"]
            code = self.mean[labels] + torch.einsum("nij,nj->ni", self.factor[labels], latent)
            return self._first(code, labels)
        return Features({"features": self.parts[stage](features.free["features"])})

    def decode_codes(self, codes: Tensor, labels: Tensor) -> Tensor:
        """Return the images of codes, of shape (n, latent), and their classes."""
        return self.decode(1, self._first(codes, labels))

    def _first(self, codes: Tensor, labels: Tensor) -> Features:
        return Features({"features": self.parts[0](torch.cat([codes, self.embedding(labels)], 1))})

    def finish(self, features: Features) -> Tensor:
        """Return the images."""
        return torch.sigmoid(self.last(features.free["features"]))


def _normalized(channels: int) -> tuple[nn.Module, nn.Module]:
    return nn.GroupNorm(GROUPS, channels), nn.LeakyReLU(LEAK)
