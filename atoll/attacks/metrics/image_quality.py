"""Metrics of reconstructed images."""

from __future__ import annotations

from torch import Tensor

from atoll.attacks.metrics.example_metrics import Columns, ExampleMetrics
from atoll.attacks.metrics.identification import identified
from atoll.attacks.metrics.image_assignment import assign
from atoll.attacks.metrics.lpips import LPIPS
from atoll.attacks.metrics.pixels import mse, psnr
from atoll.attacks.metrics.ssim import ssim


class ImageMetrics(ExampleMetrics):
    """Metrics of images: distances of pixels, structure and features, and identification.

    Parameters
    ----------
    candidates : Tensor
        Images that a reconstruction is told from: shape (n, channels, height, width).
    lpips : LPIPS or None
        Without it there is no perceptual distance.
    """

    def __init__(self, candidates: Tensor, lpips: LPIPS | None) -> None:
        self._candidates, self._lpips = candidates, lpips

    def assign(self, found: Tensor, truth: Tensor) -> Tensor:
        """Return which image stands for each true one: the least squared error."""
        return assign(found, truth)

    def columns(self, found: Tensor, truth: Tensor, entropy: Tensor | None) -> Columns:
        """Return the metrics of images in the order of the truth."""
        images = found.nan_to_num(nan=0.5)
        distances = [None] * len(truth)
        return {
            "psnr": psnr(images, truth).tolist(),
            "ssim": ssim(images, truth).tolist(),
            "lpips": distances if self._lpips is None else self._lpips(images, truth).tolist(),
            "mse": mse(images, truth).tolist(),
            "identified": identified(images, truth, self._candidates).tolist(),
        }
