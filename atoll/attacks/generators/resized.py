"""Resized generator: another generator's images, averaged over the area of each new pixel."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Generator as RandomState
from torch import Tensor

from atoll.attacks.generators.staged_generator import Features, StagedGenerator


class Resized(StagedGenerator):
    """Another generator whose images are resized; its stages are that one's.

    Parameters
    ----------
    generator : StagedGenerator
        The other.
    height, width : int
        Of the images.
    """

    def __init__(self, generator: StagedGenerator, height: int, width: int) -> None:
        super().__init__()
        self.generator = generator
        self.stages, self.classes = generator.stages, generator.classes
        self.spherical = generator.spherical
        self.bounded_from_start = generator.bounded_from_start
        self.image_shape = (generator.image_shape[0], height, width)

    def init(self, labels: Tensor, random: RandomState) -> Features:
        """Draw the features of stage 0."""
        return self.generator.init(labels, random)

    def advance(self, stage: int, features: Features) -> Features:
        """Return the features of the next stage."""
        return self.generator.advance(stage, features)

    def finish(self, features: Features) -> Tensor:
        """Return the images, resized."""
        return F.interpolate(self.generator.finish(features), self.image_shape[1:], mode="area")
