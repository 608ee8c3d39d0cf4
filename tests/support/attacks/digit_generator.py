"""A small generator of digits that has seen no test image, and victims among those."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from atoll.attacks.base.attack import Attack
from atoll.attacks.captures.capture import Capture, Truth
from atoll.attacks.generators.stylegan2 import StyleGAN2
from atoll.attacks.generators.trained_generator import train_generator
from atoll.attacks.generators.vae_training import TrainingSettings
from atoll.attacks.metrics.pixels import psnr
from atoll.attacks.threat.observation import Mimic, Observation, observe
from atoll.clients.data.catalog.loading import load_dataset
from tests.support.attacks.real_updates import client_update

# A generator as an experiment file names it.
TINY_STYLEGAN2 = f"{__name__}:tiny_stylegan2"
RESNET = {"name": "resnet8", "norm": "frozen"}
ONE_STEP = {"learning_rate": 0.1, "steps": 1}
SETTINGS = TrainingSettings(steps=200, width=16, latent=8)


def digit_generator() -> Path:
    """Train it once a machine (two seconds), and return its folder."""
    return train_generator(load_dataset("digits"), SETTINGS, "train")


def tiny_stylegan2(path: Path | None) -> StyleGAN2:
    """Return an untrained one for 8x8 grey images: its stages vary several tensors at once."""
    generator = StyleGAN2((8, 8), style=6, channels=1, mapping_layers=2)
    random = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in generator.parameters():
            parameter.copy_(0.5 * torch.randn(parameter.shape, generator=random))
    return generator


def victim(indices: list[int], node_id: int = 1) -> tuple[Capture, Truth]:
    client = {**ONE_STEP, "batch_size": len(indices)}
    return client_update(RESNET, client, indices, node_id=node_id)


def observed(
    attack: Attack, victims: Sequence[tuple[Capture, Truth]], mimic: Mimic | None = None
) -> list[Observation]:
    return [observe(c, attack.threat, truth=t, mimic=mimic) for c, t in victims]


def psnr_of(images: Tensor, truth: Truth) -> float:
    return float(psnr(images, truth.images).mean())
