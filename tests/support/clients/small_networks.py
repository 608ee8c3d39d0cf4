"""Designs of small networks, and a block that keeps what it is given."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from atoll.clients.noprop.networks.design import Design, SharedPart
from atoll.clients.settings import ModelSettings


def design(
    name: str = "noprop-dt",
    image_shape: tuple[int, int, int] = (1, 28, 28),
    classes: int = 10,
    **arguments: Any,
) -> Design:
    settings = ModelSettings.model_validate({"name": name, **arguments})
    return Design.of(settings, image_shape, classes)


def parts(name: str = "noprop-dt", seed: int = 0, **arguments: Any) -> tuple[Design, SharedPart]:
    torch.manual_seed(seed)
    made = design(name, block="small", **arguments)
    return made, made.make_shared_part()


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


class Probe(nn.Module):
    """A block that keeps what it is given and says what it is told to."""

    def __init__(self, logits: Tensor) -> None:
        super().__init__()
        self.says = logits

    def forward(self, images: Tensor, z: Tensor, time: Tensor | None = None) -> Tensor:
        self.z, self.time = z, time
        return self.says
