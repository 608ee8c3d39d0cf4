"""Score network: a denoiser of images for every level of noise."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

# Of the images in [-1, 1], about.
DATA_DEVIATION = 0.5
GROUPS = 8
FREQUENCIES = 8


class ScoreNetwork(nn.Module):
    """Denoiser D(x, s) of images with noise of deviation s, preconditioned as in EDM.

    D = c_skip x + c_out F(c_in x, s) (Karras et al., 2022, table 1), with F a network that halves
    the image once and enlarges it again. The score is (D(x, s) - x) / s^2.

    Parameters
    ----------
    shape : tuple[int, int, int]
        Channels, height, width, of any size above 1.
    width : int
        Channels of the full image, a multiple of 8; twice as many of the half one.
    largest : float
        The largest deviation that it is trained for, > 0.

    Examples
    --------
    >>> import torch
    >>> network = ScoreNetwork((1, 8, 8), width=8, largest=10.0)
    >>> network(torch.zeros(3, 1, 8, 8), torch.tensor([0.1, 1.0, 10.0])).shape
    torch.Size([3, 1, 8, 8])
    """

    def __init__(self, shape: tuple[int, int, int], width: int, largest: float) -> None:
        super().__init__()
        self.largest = largest
        channels = shape[0]
        self.level = nn.Sequential(
            nn.Linear(2 * FREQUENCIES, 4 * width), nn.SiLU(), nn.Linear(4 * width, 4 * width)
        )
        self.enter = nn.Conv2d(channels, width, 3, padding=1)
        self.fine = _Block(width, width, 4 * width)
        self.halve = nn.Conv2d(width, 2 * width, 3, 2, padding=1)
        self.coarse = nn.ModuleList(_Block(2 * width, 2 * width, 4 * width) for _ in range(3))
        self.join = _Block(3 * width, width, 4 * width)
        self.leave = nn.Sequential(
            nn.GroupNorm(GROUPS, width), nn.SiLU(), nn.Conv2d(width, channels, 3, padding=1)
        )

    def forward(self, images: Tensor, deviations: Tensor) -> Tensor:
        """Return denoised images, (n, channels, h, w); ``deviations`` has shape (n,)."""
        wide = deviations.view(-1, 1, 1, 1)
        total = (wide.square() + DATA_DEVIATION**2).sqrt()
        skip = (DATA_DEVIATION / total).square()
        out = wide * DATA_DEVIATION / total
        denoised: Tensor = skip * images + out * self._body(images / total, deviations)
        return denoised

    def _body(self, images: Tensor, deviations: Tensor) -> Tensor:
        octaves = 2.0 ** torch.arange(FREQUENCIES, device=images.device)
        angles = deviations.log()[:, None] / 4 * octaves
        level = self.level(torch.cat([angles.sin(), angles.cos()], 1))
        fine = self.fine(self.enter(images), level)
        coarse = self.halve(fine)
        for block in self.coarse:
            coarse = block(coarse, level)
        enlarged = F.interpolate(coarse, size=fine.shape[-2:], mode="nearest")
        left: Tensor = self.leave(self.join(torch.cat([fine, enlarged], 1), level))
        return left


class _Block(nn.Module):
    """Residual block, scaled and shifted by the level of noise."""

    def __init__(self, inputs: int, outputs: int, level: int) -> None:
        super().__init__()
        self.first = nn.Sequential(
            nn.GroupNorm(GROUPS, inputs), nn.SiLU(), nn.Conv2d(inputs, outputs, 3, padding=1)
        )
        self.level = nn.Linear(level, 2 * outputs)
        self.norm = nn.GroupNorm(GROUPS, outputs)
        self.second = nn.Conv2d(outputs, outputs, 3, padding=1)
        self.skip = nn.Conv2d(inputs, outputs, 1) if inputs != outputs else nn.Identity()

    def forward(self, images: Tensor, level: Tensor) -> Tensor:
        scale, shift = self.level(F.silu(level))[..., None, None].chunk(2, 1)
        hidden = self.norm(self.first(images)) * (1 + scale) + shift
        passed: Tensor = self.skip(images) + self.second(F.silu(hidden))
        return passed
