"""StyleGAN2 (Karras et al., 2020, arXiv 1912.04958), as stages split at every resolution.

Its blocks are each a growing convolution, a convolution and a layer to red, green and blue, all
modulated by a style. What never changes after training (the equalised learning rates' factors) is
folded into the weights when they are read, see ``stylegan2_weights.py``.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Generator as RandomState
from torch import Tensor, nn

from atoll.attacks.generators.checkpoints import fill
from atoll.attacks.generators.staged_generator import Features, StagedGenerator
from atoll.attacks.generators.stylegan2_weights import read_stylegan2, widths_of

FIRST = 4
LEAK, GAIN, EPSILON = 0.2, math.sqrt(2), 1e-8
STYLES_FITTED = 10_000
# How many noise maps the paper's released code optimises at stage 0, and how many more a stage.
NOISE_FIRST, NOISE_MORE = 5, 2


def activated(x: Tensor) -> Tensor:
    """Return the leaky ReLU of ``x``, scaled to keep its second moment."""
    return F.leaky_relu(x, LEAK) * GAIN


class Modulated(nn.Module):
    """A convolution whose input channels a style scales.

    Parameters
    ----------
    inputs, outputs, size, style : int
        Channels, the kernel's side, and the style's length.
    demodulates : bool
        Whether outputs are scaled back to unit variance.
    grows : bool
        Whether the image is doubled: a transposed convolution and a blur.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        size: int,
        style: int,
        *,
        demodulates: bool = True,
        grows: bool = False,
    ) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(outputs, inputs, size, size))
        self.bias = nn.Parameter(torch.empty(outputs))
        self.affine = nn.Linear(style, inputs)
        self.demodulates, self.grows = demodulates, grows

    def forward(self, x: Tensor, style: Tensor) -> Tensor:
        """Map (n, inputs, h, w) to (n, outputs, ...), without the bias; styles are (n, style)."""
        scale = self.affine(style)
        x = x * scale[:, :, None, None]
        if self.grows:
            x = _blurred(F.conv_transpose2d(x, self.weight.transpose(0, 1), stride=2))
        else:
            x = F.conv2d(x, self.weight, padding=self.weight.shape[-1] // 2)
        if self.demodulates:
            energy = scale.square() @ self.weight.square().sum((2, 3)).T
            x = x * (energy + EPSILON).rsqrt()[:, :, None, None]
        return x


def _kernel(like: Tensor) -> Tensor:
    row = torch.tensor([1.0, 3.0, 3.0, 1.0], dtype=like.dtype, device=like.device)
    # Doubling an image spreads its energy over four times as many pixels.
    kernel = 4 * torch.outer(row, row) / row.sum() ** 2
    return kernel.expand(like.shape[1], 1, 4, 4)


def _blurred(x: Tensor) -> Tensor:
    return F.conv2d(x, _kernel(x), padding=1, groups=x.shape[1])


def _doubled(image: Tensor) -> Tensor:
    return F.conv_transpose2d(image, _kernel(image), stride=2, padding=1, groups=image.shape[1])


class Layer(nn.Module):
    """A modulated 3x3 convolution, noise, and the activation."""

    def __init__(self, inputs: int, outputs: int, style: int, *, grows: bool = False) -> None:
        super().__init__()
        self.conv = Modulated(inputs, outputs, 3, style, grows=grows)
        self.noise = nn.Parameter(torch.empty(()))

    def forward(self, x: Tensor, style: Tensor, noise: Tensor) -> Tensor:
        """Map (n, inputs, h, w) to (n, outputs, ...); the noise is (n, 1, ...)."""
        x = self.conv(x, style) + self.noise * noise
        return activated(x + self.conv.bias[:, None, None])


class SynthesisBlock(nn.Module):
    """One resolution; the first has no growing layer."""

    def __init__(self, inputs: int, outputs: int, style: int, channels: int) -> None:
        super().__init__()
        self.grow = Layer(inputs, outputs, style, grows=True) if inputs else None
        self.layer = Layer(outputs, outputs, style)
        self.to_rgb = Modulated(outputs, channels, 1, style, demodulates=False)

    def forward(
        self, x: Tensor, image: Tensor | None, styles: Tensor, noise: Sequence[Tensor]
    ) -> tuple[Tensor, Tensor]:
        """Return the features and the image so far.

        ``styles`` is (n, 2 or 3, style) and ``noise`` has one or two maps: for the layers in turn,
        then (a style only) for the layer to red, green and blue.
        """
        if self.grow is not None:
            x = self.grow(x, styles[:, 0], noise[0])
        x = self.layer(x, styles[:, -2], noise[-1])
        rgb = self.to_rgb(x, styles[:, -1]) + self.to_rgb.bias[:, None, None]
        return x, rgb if image is None else _doubled(image) + rgb


class StyleGAN2(StagedGenerator):
    """The generator: styles and noise, then the input of each resolution from 8x8 up.

    At 1024 pixels that is 9 stages; the paper of GIFD optimises the first 8. Every stage optimises
    the styles (w+, one for each layer) and the noise maps of the layers to come too, as ILO does
    (Daras et al., 2021); the image that the earlier blocks have painted is carried along.

    Parameters
    ----------
    widths : Sequence[int]
        Channels of each resolution, from 4x4 up.
    style : int
        The length of a style.
    channels : int
        Of the images.
    mapping_layers : int
        Layers of the network that makes styles from latents.
    """

    def __init__(
        self, widths: Sequence[int], style: int = 512, channels: int = 3, mapping_layers: int = 8
    ) -> None:
        super().__init__()
        self.style = style
        self.const = nn.Parameter(torch.empty(widths[0], FIRST, FIRST))
        self.mapping = nn.ModuleList(nn.Linear(style, style) for _ in range(mapping_layers))
        inputs = (0, *widths[:-1])
        self.blocks = nn.ModuleList(
            SynthesisBlock(i, o, style, channels) for i, o in zip(inputs, widths, strict=True)
        )
        self.stages = len(widths)
        size = FIRST << (len(widths) - 1)
        self.image_shape = (channels, size, size)
        self.noise_maps = 2 * len(widths) - 1
        self.spherical = frozenset({"styles", *map(_noise, range(self.noise_maps))})
        self.bounded_from_start = self.spherical
        self._fit: tuple[Tensor, Tensor] | None = None

    def map_latents(self, latents: Tensor) -> Tensor:
        """Return the styles before the last activation, given latents of shape (n, style)."""
        x = latents * (latents.square().mean(1, keepdim=True) + EPSILON).rsqrt()
        for layer in self.mapping[:-1]:
            x = activated(layer(x))
        last: Tensor = self.mapping[-1](x)
        return last

    def init(self, labels: Tensor, random: RandomState) -> Features:
        """Draw styles of shape (n, layers, style), the same for each layer, and noise maps.

        A style is the activation of a Gaussian that is fitted to what the mapping network makes
        (PULSE, Menon et al., 2020), so that styles fill the space that it reaches.
        """
        mean, deviation = self._gaussian()

        def normal(*shape: int) -> Tensor:
            return torch.randn(len(labels), *shape, generator=random).to(mean.device)

        styles = activated(mean + deviation * normal(self.style))
        sizes = [FIRST << ((index + 1) // 2) for index in range(self.noise_maps)]
        noise = {_noise(index): normal(1, size, size) for index, size in enumerate(sizes)}
        layers = self.noise_maps + 1
        return self._features(0, {"styles": styles[:, None].repeat(1, layers, 1)} | noise, {})

    def advance(self, stage: int, features: Features) -> Features:
        """Go through a resolution."""
        x, image = self._block(stage, features)
        everything = {**features.free, **features.fixed, "features": x}
        return self._features(stage + 1, everything, {"image": image})

    def finish(self, features: Features) -> Tensor:
        """Go through the last resolution and return the image."""
        return (self._block(self.stages - 1, features)[1] + 1) / 2

    def _block(self, stage: int, features: Features) -> tuple[Tensor, Tensor]:
        given = {**features.fixed, **features.free}
        styles = given["styles"]
        first = max(2 * stage - 1, 0)
        noise = [given[_noise(index)] for index in range(first, 2 * stage + 1)]
        x = given.get("features")
        if x is None:
            x = self.const.expand(len(styles), -1, -1, -1)
        after: tuple[Tensor, Tensor] = self.blocks[stage](
            x, given.get("image"), styles[:, first : 2 * stage + 2], noise
        )
        return after

    def _features(
        self, stage: int, given: dict[str, Tensor], painted: dict[str, Tensor]
    ) -> Features:
        """Say which tensors are free at a stage; noise that has been used is dropped."""
        first, last = max(2 * stage - 1, 0), NOISE_FIRST + NOISE_MORE * stage
        free_noise = [_noise(i) for i in range(first, min(last, self.noise_maps))]
        later_noise = [_noise(i) for i in range(last, self.noise_maps)]
        names = ["features", "styles", *free_noise] if stage else ["styles", *free_noise]
        return Features(
            {name: given[name] for name in names},
            {name: given[name] for name in later_noise} | painted,
        )

    @torch.no_grad()
    def _gaussian(self) -> tuple[Tensor, Tensor]:
        if self._fit is None:
            random = RandomState().manual_seed(0)
            latents = torch.randn(STYLES_FITTED, self.style, generator=random)
            made = self.map_latents(latents.to(self.const.device))
            self._fit = made.mean(0), made.std(0)
        return self._fit


def _noise(index: int) -> str:
    return f"noise{index}"


def load_stylegan2(path: Path) -> StyleGAN2:
    """Read StyleGAN2 from a checkpoint of the user's.

    Parameters
    ----------
    path : Path
        See :func:`~atoll.attacks.generators.stylegan2_weights.read_stylegan2`.

    Raises
    ------
    DataUnavailableError
        If it cannot be read, or is not an unconditional StyleGAN2 generator.
    """
    weights = read_stylegan2(path)
    shape = widths_of(weights, str(path))
    return fill(
        lambda: StyleGAN2(shape.widths, shape.style, shape.channels, shape.mapping_layers),
        weights,
        str(path),
        "a StyleGAN2 generator",
    )
