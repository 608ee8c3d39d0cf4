"""BigGAN-deep for ImageNet (Brock et al., 2019, arXiv 1809.11096), as stages split at every block.

The weights are those of ``pytorch-pretrained-biggan`` (converted from the released TensorFlow
ones), 128, 256 or 512 pixels, from a file of the user's. What never changes after training is
folded when they are read: spectral norms, and the statistics of the norms at truncation 1.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Generator as RandomState
from torch import Tensor, nn

from atoll.attacks.generators.checkpoints import fill
from atoll.attacks.generators.staged_generator import Features, StagedGenerator
from atoll.clients.models.pretrained import read_weights
from atoll.errors import DataUnavailableError

LATENT = 128
WIDTH = 128
CLASSES = 1000
EPSILON = 1e-4
REDUCTION = 4
# Blocks in the order of the image's growth: channels in and out in units of the width, and whether
# the block doubles the image. Attention comes before the block of that number.
ATTENTION_BEFORE = 8
BLOCKS: dict[int, tuple[tuple[int, int, bool], ...]] = {
    128: (
        (16, 16, False), (16, 16, True), (16, 16, False), (16, 8, True), (8, 8, False),
        (8, 4, True), (4, 4, False), (4, 2, True), (2, 2, False), (2, 1, True),
    ),
    256: (
        (16, 16, False), (16, 16, True), (16, 16, False), (16, 8, True), (8, 8, False),
        (8, 8, True), (8, 8, False), (8, 4, True), (4, 4, False), (4, 2, True),
        (2, 2, False), (2, 1, True),
    ),
    512: (
        (16, 16, False), (16, 16, True), (16, 16, False), (16, 8, True), (8, 8, False),
        (8, 8, True), (8, 8, False), (8, 4, True), (4, 4, False), (4, 2, True),
        (2, 2, False), (2, 1, True), (1, 1, False), (1, 1, True),
    ),
}  # fmt: skip


class ConditionalNorm(nn.Module):
    """BatchNorm with fixed statistics, whose scale and shift depend on the condition."""

    mean: Tensor
    variance: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.scale = nn.Linear(2 * LATENT, channels, bias=False)
        self.offset = nn.Linear(2 * LATENT, channels, bias=False)
        self.register_buffer("mean", torch.zeros(channels))
        self.register_buffer("variance", torch.ones(channels))

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        """Map (n, channels, h, w) to the same shape; the condition is (n, 256)."""
        scale = (1 + self.scale(condition)) * (self.variance + EPSILON).rsqrt()
        shift = self.offset(condition) - self.mean * scale
        normalized: Tensor = x * scale[:, :, None, None] + shift[:, :, None, None]
        return normalized


class FixedNorm(nn.Module):
    """BatchNorm with fixed statistics."""

    mean: Tensor
    variance: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))
        self.register_buffer("mean", torch.zeros(channels))
        self.register_buffer("variance", torch.ones(channels))

    def forward(self, x: Tensor) -> Tensor:
        """Map (n, channels, h, w) to the same shape."""
        scale = self.weight * (self.variance + EPSILON).rsqrt()
        shift = self.bias - self.mean * scale
        return x * scale[:, None, None] + shift[:, None, None]


class Block(nn.Module):
    """1x1, 3x3, 3x3 and 1x1 convolutions beside a shortcut that drops channels."""

    def __init__(self, inputs: int, outputs: int, *, grows: bool) -> None:
        super().__init__()
        middle = inputs // REDUCTION
        self.bn_0, self.conv_0 = ConditionalNorm(inputs), nn.Conv2d(inputs, middle, 1)
        self.bn_1, self.conv_1 = ConditionalNorm(middle), nn.Conv2d(middle, middle, 3, padding=1)
        self.bn_2, self.conv_2 = ConditionalNorm(middle), nn.Conv2d(middle, middle, 3, padding=1)
        self.bn_3, self.conv_3 = ConditionalNorm(middle), nn.Conv2d(middle, outputs, 1)
        self.outputs = outputs
        self.factor = 2 if grows else 1

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        """Map (n, inputs, h, w) to (n, outputs, factor h, factor w)."""
        y = self.conv_0(torch.relu(self.bn_0(x, condition)))
        y = self._grown(torch.relu(self.bn_1(y, condition)))
        y = self.conv_1(y)
        y = self.conv_2(torch.relu(self.bn_2(y, condition)))
        y = self.conv_3(torch.relu(self.bn_3(y, condition)))
        total: Tensor = y + self._grown(x[:, : self.outputs])
        return total

    def _grown(self, x: Tensor) -> Tensor:
        return F.interpolate(x, scale_factor=self.factor) if self.factor > 1 else x


class Attention(nn.Module):
    """Self-attention over places, with keys and values at half the resolution (SAGAN)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.snconv1x1_theta = nn.Conv2d(channels, channels // 8, 1, bias=False)
        self.snconv1x1_phi = nn.Conv2d(channels, channels // 8, 1, bias=False)
        self.snconv1x1_g = nn.Conv2d(channels, channels // 2, 1, bias=False)
        self.snconv1x1_o_conv = nn.Conv2d(channels // 2, channels, 1, bias=False)
        self.gamma = nn.Parameter(torch.zeros(1))

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        """Map (n, channels, h, w) to the same shape; the condition makes no difference."""
        queries = self.snconv1x1_theta(x).flatten(2)
        keys = F.max_pool2d(self.snconv1x1_phi(x), 2).flatten(2)
        values = F.max_pool2d(self.snconv1x1_g(x), 2).flatten(2)
        weights = torch.softmax(queries.mT @ keys, dim=-1)
        attended = (values @ weights.mT).view(len(x), -1, *x.shape[2:])
        total: Tensor = x + self.gamma * self.snconv1x1_o_conv(attended)
        return total


class BigGAN(StagedGenerator):
    """The generator: the latent, then the input of each of its blocks (and of the attention).

    At 256 pixels that is 14 stages; the paper of GIFD optimises the first 13.

    Parameters
    ----------
    size : int
        128, 256 or 512 pixels.
    """

    classes = CLASSES

    def __init__(self, size: int) -> None:
        super().__init__()
        self.embeddings = nn.Linear(CLASSES, LATENT, bias=False)
        self.gen_z = nn.Linear(2 * LATENT, 4 * 4 * 16 * WIDTH)
        layers: list[nn.Module] = []
        for number, (inputs, outputs, grows) in enumerate(BLOCKS[size]):
            if number == ATTENTION_BEFORE:
                layers.append(Attention(WIDTH * inputs))
            layers.append(Block(WIDTH * inputs, WIDTH * outputs, grows=grows))
        self.layers = nn.ModuleList(layers)
        self.bn = FixedNorm(WIDTH)
        self.conv_to_rgb = nn.Conv2d(WIDTH, 3, 3, padding=1)
        self.stages = 1 + len(layers)
        self.image_shape = (3, size, size)

    def init(self, labels: Tensor, random: RandomState) -> Features:
        """Draw latents of shape (n, 128); the class's embedding stays with them."""
        latent = torch.randn(len(labels), LATENT, generator=random).to(labels.device)
        return Features({"latent": latent}, {"embedding": self.embeddings.weight.T[labels]})

    def advance(self, stage: int, features: Features) -> Features:
        """Go through the linear layer (stage 0), or through block ``stage - 1``."""
        if stage == 0:
            condition = torch.cat([features.free["latent"], features.fixed["embedding"]], 1)
            # The weights come from TensorFlow, which has channels last.
            first = self.gen_z(condition).view(len(condition), 4, 4, -1).permute(0, 3, 1, 2)
            return Features({"features": first.contiguous()}, {"condition": condition})
        return Features({"features": self._block(stage, features)}, features.fixed)

    def finish(self, features: Features) -> Tensor:
        """Go through the last block, and to red, green and blue."""
        last = torch.relu(self.bn(self._block(self.stages - 1, features)))
        return (torch.tanh(self.conv_to_rgb(last)) + 1) / 2

    def _block(self, stage: int, features: Features) -> Tensor:
        out: Tensor = self.layers[stage - 1](features.free["features"], features.fixed["condition"])
        return out


def load_biggan(path: Path) -> BigGAN:
    """Read BigGAN-deep from a checkpoint of ``pytorch-pretrained-biggan``.

    Parameters
    ----------
    path : Path
        ``pytorch_model.bin``, the same as safetensors, or the folder that holds it. Its size is
        told by the number of its blocks. Nothing but tensors is read from it.

    Raises
    ------
    DataUnavailableError
        If it cannot be read, or is not a BigGAN-deep generator.
    """
    file = path / "pytorch_model.bin" if path.is_dir() else path
    weights = _folded(read_weights(file), file)
    layers = {int(m[1]) for name in weights if (m := re.match(r"layers\.(\d+)\.", name))}
    sizes = {1 + len(blocks): size for size, blocks in BLOCKS.items()}
    size = sizes.get(len(layers))
    if size is None:
        raise DataUnavailableError(
            f"{file}: is not a BigGAN-deep generator: it has {len(layers)} blocks, expected one of "
            + ", ".join(map(str, sizes))
        )
    return fill(lambda: BigGAN(size), weights, str(file), f"BigGAN-deep-{size}")


def _folded(given: Mapping[str, Tensor], file: Path) -> dict[str, Tensor]:
    """Return the weights under our names, each divided by its spectral norm."""
    folded: dict[str, Tensor] = {}
    for name, value in given.items():
        ours = name.removeprefix("generator.")
        if name.endswith("weight_orig"):
            prefix = name.removesuffix("_orig")
            try:
                u, v = given[f"{prefix}_u"], given[f"{prefix}_v"]
                norm = torch.dot(u, value.flatten(1) @ v)
            except (KeyError, RuntimeError) as error:
                raise DataUnavailableError(
                    f"{file}: is not a BigGAN-deep generator: {prefix}_u and {prefix}_v do not go "
                    "with it"
                ) from error
            folded[ours.removesuffix("_orig")] = value / norm
        elif name.endswith(("running_means", "running_vars")):
            # A row for each truncation from 0 to 1, of which the last is used.
            statistic = "mean" if name.endswith("means") else "variance"
            last = value[-1] if value.dim() else value
            folded[f"{ours.rpartition('.')[0]}.{statistic}"] = last
        elif not name.endswith(("weight_u", "weight_v")):
            folded[ours] = value
    for part in ("weight", "bias"):
        # The released layer has 128 outputs, of which the first three are the image.
        if f"conv_to_rgb.{part}" in folded:
            folded[f"conv_to_rgb.{part}"] = folded[f"conv_to_rgb.{part}"][:3]
    return folded
