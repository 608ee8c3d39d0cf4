"""Rotated MNIST: each domain is the digits rotated by an angle of its own.

The protocol is DomainBed's (Gulrajani and Lopez-Paz, 2021, arXiv 2007.01434): all images, shuffled
and dealt to the domains in turn, rotated counter-clockwise with bilinear interpolation, black
corners, a fifth of each domain for test; pixels are not normalised.
"""

from __future__ import annotations

from typing import Annotated

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pydantic import Field, field_validator

from atoll.clients.data.files.dataset import Dataset, Decoded, Split
from atoll.clients.data.options import Preset
from atoll.clients.ranges import Seed
from atoll.clients.settings import Section
from atoll.randomness import derive_seed

Angle = Annotated[int, Field(ge=-360, le=360)]
Angles = Annotated[tuple[Angle, ...], Field(strict=False, min_length=2, max_length=360)]
# Training examples a domain; None takes all there are.
PRESETS: dict[str, int | None] = {"tiny": 1_000, "small": 3_000, "paper": None}
TEST_FRACTION = 0.2


class RotatedOptions(Section):
    """Options of the rotated data sets.

    Attributes
    ----------
    preset : str
        At most 1,000 ("tiny"), 3,000 ("small") or all ("paper") training examples a domain; the
        test examples are a quarter of them.
    angles : tuple[int, ...]
        Degrees, one domain each, named by its angle.
    seed : int
        Decides which image is in which domain; by default the run's seed.
    """

    preset: Preset = "paper"
    angles: Annotated[tuple[Angle, ...], Field(strict=False, min_length=2, max_length=360)] = (
        0,
        15,
        30,
        45,
        60,
        75,
    )
    seed: Seed

    @field_validator("angles")
    @classmethod
    def _angles_differ(cls, angles: tuple[int, ...]) -> tuple[int, ...]:
        if len({angle % 360 for angle in angles}) < len(angles):
            raise ValueError("angles that differ from each other")
        return angles


def rotated(base: Dataset, options: RotatedOptions) -> Decoded:
    """Rotate a grey data set.

    Parameters
    ----------
    base : Dataset
        One channel.
    options : RotatedOptions
        See there.

    Returns
    -------
    Decoded
        A domain per angle, named by it.
    """
    images = np.concatenate([base.train.images, base.test.images])
    labels = np.concatenate([base.train.labels, base.test.labels])
    generator = np.random.default_rng(derive_seed(options.seed, "rotated"))
    order = generator.permutation(len(images))
    count = len(options.angles)
    train, test = [], []
    for place in range(count):
        own = order[place::count]
        limit = PRESETS[options.preset] or len(own)
        held = round(TEST_FRACTION * min(len(own), round(limit / (1 - TEST_FRACTION))))
        test.append(own[:held])
        train.append(own[held : held + limit])
    return Decoded(
        task=base.classes,
        train=_turned(images, labels, train, options.angles),
        test=_turned(images, labels, test, options.angles),
        domains=tuple(map(str, options.angles)),
        inputs=((0.0,), (1.0,)),
    )


def _turned(
    images: NDArray[np.uint8],
    labels: NDArray[np.int64],
    parts: list[NDArray[np.int64]],
    angles: tuple[int, ...],
) -> Split:
    turned = [
        np.asarray(Image.fromarray(images[index, :, :, 0]).rotate(angle, Image.Resampling.BILINEAR))
        for part, angle in zip(parts, angles, strict=True)
        for index in part
    ]
    return Split(
        inputs=np.stack(turned)[..., None],
        labels=labels[np.concatenate(parts)],
        domains=np.repeat(np.arange(len(parts)), [len(part) for part in parts]),
    )
