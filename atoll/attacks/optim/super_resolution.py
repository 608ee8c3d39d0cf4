"""Super-resolution network: sharpens enlarged images, trained on public ones."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

WIDTH = 32
BATCH = 64
LEARNING_RATE = 1e-3


def enlarge(images: Tensor, factor: int) -> Tensor:
    """Enlarge images (..., channels, h, w) bicubically to (..., channels, h * factor, ...)."""
    if factor == 1:
        return images
    flat = images.flatten(0, -4) if images.dim() > 4 else images
    larger = F.interpolate(flat, scale_factor=factor, mode="bicubic", align_corners=False)
    return larger.view(*images.shape[:-2], *larger.shape[-2:])


def reduce(images: Tensor, factor: int) -> Tensor:
    """Reduce images (n, channels, h, w) to means of squares of ``factor`` pixels."""
    return F.avg_pool2d(images, factor)


class SuperResolution(nn.Module):
    """Residual network that sharpens enlarged images: four 3x3 convolutions."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(channels, WIDTH, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(WIDTH, WIDTH, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(WIDTH, WIDTH, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(WIDTH, channels, 3, padding=1),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Map images (n, channels, h, w) to the same shape."""
        detailed: Tensor = x + self.body(x)
        return detailed


def train_super_resolution(images: Tensor, factor: int, steps: int, seed: int) -> SuperResolution:
    """Train a network that undoes reducing and enlarging.

    Parameters
    ----------
    images : Tensor
        Public images, normalised, shape (n, channels, h, w).
    factor : int
        By which the images are reduced.
    steps : int
        Of Adam, on batches of 64, with the mean squared error.
    seed : int
        Of the parameters and of the batches; the global generator is left as it was.
    """
    generator = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        network = SuperResolution(images.shape[1]).to(images.device)
    optimizer = torch.optim.Adam(network.parameters(), LEARNING_RATE)
    for _ in range(steps):
        chosen = torch.randint(len(images), (min(BATCH, len(images)),), generator=generator)
        sharp = images[chosen.to(images.device)]
        loss = F.mse_loss(network(enlarge(reduce(sharp, factor), factor)), sharp)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    return network.eval()
