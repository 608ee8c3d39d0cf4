"""Picture grid: true images and reconstructions side by side."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from torch import Tensor

COLUMNS = 16
CELL, GAP, CAPTION = 64, 4, 14


def picture(
    truth: Tensor, images: Tensor, captions: Sequence[str], cell: int = CELL
) -> Image.Image:
    """Draw a row of true images over a row of reconstructions, with a caption each.

    Parameters
    ----------
    truth, images : Tensor
        Shape (n, channels, height, width), in [0, 1].
    captions : Sequence[str]
        A few characters each.
    cell : int
        Width and height of an image, in pixels.
    """
    width = len(truth) * (cell + GAP) + GAP
    height = 2 * (cell + GAP) + GAP + CAPTION
    canvas = Image.new("RGB", (width, height), "white")
    draw = ImageDraw.Draw(canvas)
    for column, pair in enumerate(zip(truth, images, strict=True)):
        left = GAP + column * (cell + GAP)
        for row, image in enumerate(pair):
            top = GAP + row * (cell + GAP)
            canvas.paste(Image.fromarray(_pixels(image, cell)), (left, top))
        draw.text((left + 2, height - CAPTION), captions[column], fill="black")
    return canvas


def best_and_worst(scores: Sequence[float], columns: int = COLUMNS) -> list[int]:
    """Return which places a picture shows, best first: all, or as many of the best as the worst."""
    order = sorted(range(len(scores)), key=lambda place: -scores[place])
    if len(order) <= columns:
        return order
    half = columns // 2
    return order[:half] + order[-(columns - half) :]


def save_picture(
    path: Path,
    truth: Tensor,
    images: Tensor,
    scores: Sequence[float],
    unit: str = "dB",
    *,
    columns: int = COLUMNS,
    cell: int = CELL,
) -> None:
    """Save the best and the worst reconstructions under their truths, as PNG.

    Parameters
    ----------
    scores : Sequence[float]
        Of each image, the larger the better; they are the captions.
    columns, cell : int
        How many images are beside each other at most, and their size in pixels.
    """
    shown = torch.tensor(best_and_worst(scores, columns))
    captions = [f"{scores[place]:.1f} {unit}" for place in shown.tolist()]
    picture(truth[shown], images[shown], captions, cell).save(path, format="PNG")


def _pixels(image: Tensor, cell: int) -> NDArray[np.uint8]:
    """Return an image (channels, h, w) as RGB of the cell's size, nearest neighbour."""
    channels = image.shape[0]
    if channels == 1:
        image = image.expand(3, -1, -1)
    elif channels == 2:
        image = torch.cat([image, torch.zeros_like(image[:1])])
    scaled = F.interpolate(image[None, :3].float(), (cell, cell), mode="nearest")[0]
    return (scaled.clamp(0, 1) * 255).round().to(torch.uint8).permute(1, 2, 0).numpy()
