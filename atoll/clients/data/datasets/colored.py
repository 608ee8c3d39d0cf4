"""Colored MNIST and its variants: a spurious colour that predicts the label in training domains.

A grey data set of ten classes becomes a binary one: is the class one of the first five? The label
is flipped with probability 0.25, and the image is painted in one of two colours that agrees with
the flipped label save with probability e. In the training domains e is small, so the colour is the
better predictor; in the last domain e is 0.9, and who relies on colour is wrong nine times in ten.

Two protocols are in use, and their figures are not comparable:

- "irm" (Arjovsky et al., 2019, arXiv 1907.02893, section 5.2): 14x14, two training domains of
  25,000 images (e = 0.2, 0.1), and the last 10,000 training images as the third (e = 0.9), which
  has test examples only. What the paper has no need of, in-domain validation, comes from the base's
  test images.
- "domainbed" (Gulrajani and Lopez-Paz, 2021, arXiv 2007.01434): 28x28, all 70,000 images in three
  domains (e = 0.1, 0.2, 0.9), a fifth of each for test.

The domain "grey" is the last domain's test images with both planes filled: it has test examples
only. Pixels are not normalised, as in both papers' code.
"""

from __future__ import annotations

from typing import Annotated, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from atoll.clients.data.files.dataset import Dataset, Decoded, Split
from atoll.clients.data.options import Preset
from atoll.clients.ranges import Seed
from atoll.clients.settings import Section
from atoll.randomness import derive_seed

GREY = "grey"
UNNORMALIZED = ((0.0, 0.0), (1.0, 1.0))
# Training examples a domain; None takes all there are.
PRESETS: dict[str, int] = {"tiny": 5_000, "small": 12_500, "paper": 25_000}
IRM_RATES, DOMAINBED_RATES = (0.2, 0.1, 0.9), (0.1, 0.2, 0.9)
TEST_FRACTION = 0.2
# Larger images lose every other row and column, as in the IRM protocol.
SUBSAMPLED_FROM = 28


class ColoredOptions(Section):
    """Options of the coloured data sets.

    Attributes
    ----------
    protocol : str
        "irm" or "domainbed".
    preset : str
        At most 5,000 ("tiny"), 12,500 ("small") or 25,000 ("paper") training examples a domain.
    label_noise : float
        The probability with which a label is flipped.
    label_shift : str
        "none"; "share": ``label_share`` of the first training domain are of the first five
        classes and of the second domain the rest; "as-released": what the Hessian Alignment
        paper's scripts for imbalance do instead, by counting a mask's length for the number of
        its members: nearly all of the one kind in the first domain and all of the other in the
        second, before label noise.
    label_share : float
        See ``label_shift``.
    seed : int
        Decides the shuffle, label noise and colours; by default the run's seed.
    """

    protocol: Literal["irm", "domainbed"] = "irm"
    preset: Preset = "paper"
    label_noise: Annotated[float, Field(ge=0.0, le=0.5)] = 0.25
    label_shift: Literal["none", "share", "as-released"] = "none"
    label_share: Annotated[float, Field(ge=0.5, lt=1.0)] = 0.97
    seed: Seed

    @model_validator(mode="after")
    def _label_shift_is_irms(self) -> ColoredOptions:
        if self.label_shift != "none" and self.protocol != "irm":
            raise ValueError("label_shift only with protocol = 'irm'")
        return self


def colored(base: Dataset, options: ColoredOptions) -> Decoded:
    """Colour a grey data set.

    Parameters
    ----------
    base : Dataset
        One channel, an even number of classes.
    options : ColoredOptions
        See there.

    Returns
    -------
    Decoded
        Domains "e0.2", "e0.1", "e0.9" (their e) and "grey".
    """
    make = _irm if options.protocol == "irm" else _domainbed
    rates, train, test = make(base, options)
    colours = _generator(options, "colour")
    half = len(base.classes) // 2
    painted = [
        [
            _painted(images, digits < half, rate, options.label_noise, colours)
            for images, digits in p
        ]
        for p, rate in zip(zip(train, test, strict=True), rates, strict=True)
    ]
    grey_images, grey_labels = painted[-1][1]
    grey_images = np.repeat(grey_images.max(axis=-1, keepdims=True), 2, axis=-1)
    names = tuple(f"e{rate:g}" for rate in rates)
    first, last = base.classes[half], base.classes[-1]
    return Decoded(
        task=(f"{first} to {last}", f"{base.classes[0]} to {base.classes[half - 1]}"),
        train=_joined([parts[0] for parts in painted]),
        test=_joined([*(parts[1] for parts in painted), (grey_images, grey_labels)]),
        domains=(*names, GREY),
        inputs=UNNORMALIZED,
    )


Examples = tuple[NDArray[np.uint8], NDArray[np.int64]]
Domains = tuple[tuple[float, ...], list[Examples], list[Examples]]


def _irm(base: Dataset, options: ColoredOptions) -> Domains:
    cut = len(base.train) * 5 // 6
    order = _generator(options, "order").permutation(cut)
    stride = 2 if base.image_shape[1] >= SUBSAMPLED_FROM else 1
    images, digits = base.train.images[:, ::stride, ::stride], base.train.labels
    kept = order[: 2 * min(PRESETS[options.preset], cut // 2)]
    train = [(images[own], digits[own]) for own in _two_domains(kept, digits, base, options)]
    none = images[:0], digits[:0]
    validation = base.test.images[:, ::stride, ::stride], base.test.labels
    return (
        IRM_RATES,
        [*train, none],
        [
            (validation[0][::2], validation[1][::2]),
            (validation[0][1::2], validation[1][1::2]),
            (images[cut:], digits[cut:]),
        ],
    )


def _two_domains(
    order: NDArray[np.int64], digits: NDArray[np.int64], base: Dataset, options: ColoredOptions
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Deal the shuffled examples to the two training domains."""
    if options.label_shift == "none":
        return order[::2], order[1::2]
    is_low = digits[order] < len(base.classes) // 2
    low, high = order[is_low], order[~is_low]
    if options.label_shift == "as-released":
        many = int(options.label_share * len(order))
        few = len(order) - many
        return np.r_[low[:many], high[:few]], np.r_[low[many:], high[few:]]
    size = min(len(order) // 2, len(low), len(high))
    many = round(options.label_share * size)
    few = size - many
    return np.r_[low[:many], high[:few]], np.r_[low[many:size], high[few:size]]


def _domainbed(base: Dataset, options: ColoredOptions) -> Domains:
    images = np.concatenate([base.train.images, base.test.images])
    digits = np.concatenate([base.train.labels, base.test.labels])
    order = _generator(options, "order").permutation(len(images))
    train, test = [], []
    for place in range(len(DOMAINBED_RATES)):
        own = order[place :: len(DOMAINBED_RATES)]
        held = round(TEST_FRACTION * len(own))
        kept = own[held:][: PRESETS[options.preset]]
        train.append((images[kept], digits[kept]))
        test.append((images[own[:held]], digits[own[:held]]))
    return DOMAINBED_RATES, train, test


def _generator(options: ColoredOptions, purpose: str) -> np.random.Generator:
    return np.random.default_rng(derive_seed(options.seed, "colored", purpose))


def _painted(
    grey: NDArray[np.uint8],
    is_low: NDArray[np.bool_],
    rate: float,
    label_noise: float,
    generator: np.random.Generator,
) -> Examples:
    """Return the images with the other colour's plane empty, and the noisy labels."""
    labels = is_low ^ (generator.random(len(is_low)) < label_noise)
    colour = labels ^ (generator.random(len(labels)) < rate)
    images = np.repeat(grey, 2, axis=-1)
    images[np.arange(len(images)), :, :, (~colour).astype(np.int64)] = 0
    return images, labels.astype(np.int64)


def _joined(parts: list[Examples]) -> Split:
    return Split(
        inputs=np.concatenate([images for images, _ in parts]),
        labels=np.concatenate([labels for _, labels in parts]),
        domains=np.repeat(np.arange(len(parts)), [len(labels) for _, labels in parts]),
    )
