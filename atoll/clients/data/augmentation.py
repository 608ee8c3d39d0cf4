"""Training images varied at random, as DomainBed varies photographs.

DomainBed's transform (Gulrajani and Lopez-Paz, 2021, arXiv 2007.01434, appendix B.1): a crop of
0.7 to 1 of the area and of ratio 3/4 to 4/3, resized; a horizontal flip; brightness, contrast,
saturation and hue changed by up to 0.3; one image in ten made grey. All images of a batch are
changed at once; colours are changed in one order, where DomainBed draws the order.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

LEAST_AREA, MOST_RATIO = 0.7, 4 / 3
JITTER = 0.3
FLIP_PROBABILITY, GREY_PROBABILITY = 0.5, 0.1
# ITU-R BT.601 luma of red, green and blue.
LUMA = (0.299, 0.587, 0.114)


def augment(images: NDArray[np.uint8], name: str, seed: int) -> NDArray[np.uint8]:
    """Return images varied at random.

    Parameters
    ----------
    images : NDArray[uint8]
        Shape (n, height, width, 3); they do not change.
    name : str
        A name in :data:`AUGMENTATIONS`, or "none".
    seed : int
        Decides how; the same images and seed give the same result.
    """
    if name == "none" or len(images) == 0:
        return images
    pixels = torch.from_numpy(np.array(images)).permute(0, 3, 1, 2).float() / 255
    varied = AUGMENTATIONS[name](pixels, torch.Generator().manual_seed(seed))
    return (varied * 255).round().to(torch.uint8).permute(0, 2, 3, 1).contiguous().numpy()


def domainbed(images: Tensor, generator: torch.Generator) -> Tensor:
    """Vary images of shape (n, 3, height, width) in [0, 1] as DomainBed does."""
    count = len(images)

    def uniform(low: float, high: float) -> Tensor:
        return low + (high - low) * torch.rand(count, generator=generator)

    sides = uniform(LEAST_AREA, 1.0).sqrt()
    stretch = torch.exp(uniform(-1.0, 1.0) * np.log(MOST_RATIO) / 2)
    heights, widths = (sides / stretch).clamp(max=1.0), (sides * stretch).clamp(max=1.0)
    tops, lefts = uniform(0.0, 1.0) * (1 - heights), uniform(0.0, 1.0) * (1 - widths)
    flipped = uniform(0.0, 1.0) < FLIP_PROBABILITY
    images = crop(images, torch.stack([tops, lefts, heights, widths], 1), flipped)
    images = change_colors(
        images,
        brightness=uniform(1 - JITTER, 1 + JITTER),
        contrast=uniform(1 - JITTER, 1 + JITTER),
        saturation=uniform(1 - JITTER, 1 + JITTER),
        hue=uniform(-JITTER, JITTER),
    )
    is_grey = uniform(0.0, 1.0) < GREY_PROBABILITY
    return torch.where(is_grey[:, None, None, None], luma(images).expand_as(images), images)


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
    images: Tensor, *, brightness: Tensor, contrast: Tensor, saturation: Tensor, hue: Tensor
) -> Tensor:
    """Change colours, in this order.

    Parameters
    ----------
    images : Tensor
        Shape (n, 3, height, width), in [0, 1].
    brightness, contrast, saturation : Tensor
        Shape (n,): factors; 1 changes nothing. Contrast is about the mean luma of the image,
        saturation about each pixel's.
    hue : Tensor
        Shape (n,): added to the hue, in turns.
    """
    images = (images * _of_images(brightness)).clamp(0, 1)
    mean = luma(images).mean(dim=(2, 3), keepdim=True)
    images = (mean + (images - mean) * _of_images(contrast)).clamp(0, 1)
    grey = luma(images)
    images = (grey + (images - grey) * _of_images(saturation)).clamp(0, 1)
    return turn_hue(images, hue)


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


AUGMENTATIONS: dict[str, Callable[[Tensor, torch.Generator], Tensor]] = {"domainbed": domainbed}
