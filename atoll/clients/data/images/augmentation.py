"""Augmentation of training images at random, as DomainBed's of photographs.

DomainBed's transform (Gulrajani and Lopez-Paz, 2021, arXiv 2007.01434, appendix B.1; torchvision's
``RandomResizedCrop(scale=(0.7, 1))``, ``RandomHorizontalFlip``, ``ColorJitter(0.3, 0.3, 0.3, 0.3)``
and ``RandomGrayscale``): a crop of 0.7 to 1 of the area and of ratio 3/4 to 4/3 in the photograph's
own pixels, resized; a horizontal flip; brightness, contrast, saturation and hue changed by up to
0.3, in an order that is drawn for each image; one image in ten made grey. All images of a batch are
changed at once. Crops are made from the square that is kept of a photograph, where DomainBed's are
made from the photograph itself.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

LEAST_AREA, MOST_RATIO = 0.7, 4 / 3
# Images varied at once, and so the most that are in memory as floats.
BLOCK = 256
# Boxes drawn until one is inside the image, and otherwise the middle is taken; as in torchvision.
TRIES = 10
JITTER = 0.3
FLIP_PROBABILITY, GREY_PROBABILITY = 0.5, 0.1
# ITU-R BT.601 luma of red, green and blue.
LUMA = (0.299, 0.587, 0.114)


class Augmentation(Protocol):
    """Random variation of a set of images, drawn once, so that any of them can be varied alone."""

    def vary(self, images: Tensor, chosen: Tensor) -> Tensor:
        """Return images varied: those that have the numbers ``chosen`` in the set.

        Parameters
        ----------
        images : Tensor
            Shape (n, 3, height, width), in [0, 1].
        chosen : Tensor
            int64, shape (n,).
        """


def draw_augmentation(name: str, aspects: NDArray[np.float32], seed: int) -> Augmentation:
    """Draw how a set of images is varied.

    Parameters
    ----------
    name : str
        A name in :data:`AUGMENTATIONS`.
    aspects : NDArray[float32]
        Shape (n,), one an image: width by height of the photograph that it was squeezed from.
    seed : int
        Decides how.
    """
    generator = torch.Generator().manual_seed(seed)
    return AUGMENTATIONS[name](torch.from_numpy(np.array(aspects)), generator)


def vary_pixels(
    augmentation: Augmentation, images: NDArray[np.uint8], chosen: NDArray[np.int64]
) -> NDArray[np.uint8]:
    """Return images of shape (n, height, width, 3) varied, a block at a time; they do not change.

    ``chosen`` are their numbers in the set, shape (n,).
    """
    varied = np.empty_like(images)
    for start in range(0, len(images), BLOCK):
        block = slice(start, start + BLOCK)
        pixels = torch.from_numpy(np.array(images[block])).permute(0, 3, 1, 2).float() / 255
        pixels = augmentation.vary(pixels, torch.from_numpy(chosen[block]))
        varied[block] = (pixels * 255).round().to(torch.uint8).permute(0, 2, 3, 1).numpy()
    return varied


@dataclass(frozen=True)
class DomainBedAugmentation:
    """DomainBed's augmentation of n images: its draws, each of shape (n, ...).

    Attributes
    ----------
    boxes, is_flipped : Tensor
        As :func:`crop` wants them.
    brightness, contrast, saturation, hue, order : Tensor
        As :func:`change_colors` wants them.
    is_grey : Tensor
        bool: whether the image is made grey.
    """

    boxes: Tensor
    is_flipped: Tensor
    brightness: Tensor
    contrast: Tensor
    saturation: Tensor
    hue: Tensor
    order: Tensor
    is_grey: Tensor

    @classmethod
    def draw(cls, aspects: Tensor, generator: torch.Generator) -> DomainBedAugmentation:
        """Draw for images whose width by height is ``aspects``, shape (n,)."""
        count = len(aspects)

        def uniform(low: float, high: float) -> Tensor:
            return low + (high - low) * torch.rand(count, generator=generator)

        return cls(
            boxes=random_boxes(aspects, generator),
            is_flipped=uniform(0.0, 1.0) < FLIP_PROBABILITY,
            brightness=uniform(1 - JITTER, 1 + JITTER),
            contrast=uniform(1 - JITTER, 1 + JITTER),
            saturation=uniform(1 - JITTER, 1 + JITTER),
            hue=uniform(-JITTER, JITTER),
            order=torch.rand(count, 4, generator=generator).argsort(dim=1),
            is_grey=uniform(0.0, 1.0) < GREY_PROBABILITY,
        )

    def vary(self, images: Tensor, chosen: Tensor) -> Tensor:
        """Return images varied; see :class:`Augmentation`."""
        images = crop(images, self.boxes[chosen], self.is_flipped[chosen])
        images = change_colors(
            images,
            brightness=self.brightness[chosen],
            contrast=self.contrast[chosen],
            saturation=self.saturation[chosen],
            hue=self.hue[chosen],
            order=self.order[chosen],
        )
        is_grey = self.is_grey[chosen, None, None, None]
        return torch.where(is_grey, luma(images).expand_as(images), images)


def random_boxes(aspects: Tensor, generator: torch.Generator) -> Tensor:
    """Draw crops as torchvision's ``RandomResizedCrop`` does.

    Parameters
    ----------
    aspects : Tensor
        Shape (n,): the images' width by their height.
    generator : torch.Generator
        Decides.

    Returns
    -------
    Tensor
        Shape (n, 4): top, left, height and width, as shares of the image's height and width.
    """
    shape = (TRIES, len(aspects))
    areas = LEAST_AREA + (1 - LEAST_AREA) * torch.rand(shape, generator=generator)
    ratios = torch.exp((2 * torch.rand(shape, generator=generator) - 1) * np.log(MOST_RATIO))
    heights, widths = (areas * aspects / ratios).sqrt(), (areas * ratios / aspects).sqrt()
    fits = (heights <= 1) & (widths <= 1)
    first = fits.int().argmax(dim=0, keepdim=True)
    is_drawn = fits.any(dim=0)
    # Otherwise as much of the middle as has a ratio that is allowed.
    allowed = aspects.clamp(1 / MOST_RATIO, MOST_RATIO)
    heights = torch.where(is_drawn, heights.gather(0, first)[0], (aspects / allowed).clamp(max=1))
    widths = torch.where(is_drawn, widths.gather(0, first)[0], (allowed / aspects).clamp(max=1))
    places = torch.where(is_drawn, torch.rand(2, len(aspects), generator=generator), 0.5)
    return torch.stack([places[0] * (1 - heights), places[1] * (1 - widths), heights, widths], 1)


def crop(images: Tensor, boxes: Tensor, flipped: Tensor) -> Tensor:
    """Cut a box out of each image and resize it, bilinearly, to the image's size.

    Parameters
    ----------
    images : Tensor
        Shape (n, channels, height, width).
    boxes : Tensor
        Shape (n, 4): top, left, height and width, as shares of the image's.
    flipped : Tensor
        bool, shape (n,): whether left and right change places.
    """
    top, left, height, width = boxes.unbind(1)
    zero = torch.zeros_like(top)
    across = torch.where(flipped, -width, width)
    rows = torch.stack([across, zero, 2 * left + width - 1], 1)
    columns = torch.stack([zero, height, 2 * top + height - 1], 1)
    grid = F.affine_grid(torch.stack([rows, columns], 1), list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, padding_mode="border", align_corners=False)


def change_colors(
    images: Tensor,
    *,
    brightness: Tensor,
    contrast: Tensor,
    saturation: Tensor,
    hue: Tensor,
    order: Tensor | None = None,
) -> Tensor:
    """Change colours.

    Parameters
    ----------
    images : Tensor
        Shape (n, 3, height, width), in [0, 1]; they do not change.
    brightness, contrast, saturation : Tensor
        Shape (n,): factors; 1 changes nothing. Contrast is about the mean luma of the image,
        saturation about each pixel's.
    hue : Tensor
        Shape (n,): added to the hue, in turns.
    order : Tensor, optional
        Shape (n, 4): for each image the order of the four, as they are numbered here from 0; by
        default this one.
    """
    changes = (
        (_brighten, brightness),
        (_contrast, contrast),
        (_saturate, saturation),
        (turn_hue, hue),
    )
    if order is None:
        order = torch.arange(len(changes)).expand(len(images), -1)
    images = images.clone()
    for turn in order.unbind(1):
        for number, (change, values) in enumerate(changes):
            own = torch.nonzero(turn == number)[:, 0]
            if len(own):
                images[own] = change(images[own], values[own])
    return images


def _brighten(images: Tensor, factors: Tensor) -> Tensor:
    return (images * _of_images(factors)).clamp(0, 1)


def _contrast(images: Tensor, factors: Tensor) -> Tensor:
    mean = luma(images).mean(dim=(2, 3), keepdim=True)
    return (mean + (images - mean) * _of_images(factors)).clamp(0, 1)


def _saturate(images: Tensor, factors: Tensor) -> Tensor:
    grey = luma(images)
    return (grey + (images - grey) * _of_images(factors)).clamp(0, 1)


def luma(images: Tensor) -> Tensor:
    """Return the luma of images: shape (n, 1, height, width)."""
    weights = torch.tensor(LUMA, dtype=images.dtype).view(1, 3, 1, 1)
    return (images * weights).sum(dim=1, keepdim=True)


def turn_hue(images: Tensor, turns: Tensor) -> Tensor:
    """Add to the hue of images (n, 3, height, width), in turns; saturation and value stay."""
    value, _ = images.max(dim=1)
    chroma = value - images.min(dim=1).values
    red, green, blue = images.unbind(1)
    safe = torch.where(chroma > 0, chroma, torch.ones_like(chroma))
    sixth = torch.where(
        value == red,
        (green - blue) / safe,
        torch.where(value == green, 2 + (blue - red) / safe, 4 + (red - green) / safe),
    )
    sixth = sixth + 6 * turns[:, None, None]
    # HSV to RGB in closed form: channel n is V - C max(0, min(k, 4 - k, 1)), k = (n + 6 H) mod 6.
    channels = []
    for start in (5, 3, 1):
        k = (start + sixth) % 6
        channels.append(value - chroma * torch.minimum(k, 4 - k).clamp(0, 1))
    return torch.stack(channels, 1)


def _of_images(values: Tensor) -> Tensor:
    return values[:, None, None, None]


AUGMENTATIONS: dict[str, Callable[[Tensor, torch.Generator], Augmentation]] = {
    "domainbed": DomainBedAugmentation.draw
}
