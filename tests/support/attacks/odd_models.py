"""Models whose parameters are unused, tied, scalar, of half precision or partly frozen."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

HIDDEN = 12


class OddModel(nn.Module):
    """Two layers and a head; what is odd about it is in the kinds below."""

    def __init__(self, image_shape: tuple[int, int, int], classes: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Flatten(), nn.Linear(math.prod(image_shape), HIDDEN), nn.Sigmoid()
        )
        self.middle = nn.Sequential(nn.Linear(HIDDEN, HIDDEN), nn.Sigmoid())
        self.head = nn.Linear(HIDDEN, classes)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.middle(self.body(images)))


class Tied(OddModel):
    """The middle layer's weight is used twice, under two names."""

    def __init__(self, image_shape: tuple[int, int, int], classes: int) -> None:
        super().__init__(image_shape, classes)
        again = nn.Linear(HIDDEN, HIDDEN)
        again.weight = self.middle[0].weight
        self.middle = nn.Sequential(*self.middle, again, nn.Sigmoid())


class Scale(nn.Module):
    """A factor: a parameter without dimensions."""

    def __init__(self) -> None:
        super().__init__()
        self.factor = nn.Parameter(torch.tensor(1.5))

    def forward(self, values: Tensor) -> Tensor:
        return values * self.factor


class Half(OddModel):
    """Parameters of half precision; images come and logits go as float32."""

    def __init__(
        self,
        image_shape: tuple[int, int, int],
        classes: int,
        dtype: torch.dtype = torch.float16,
    ) -> None:
        super().__init__(image_shape, classes)
        self.dtype = dtype
        self.to(dtype)

    def forward(self, images: Tensor) -> Tensor:
        return super().forward(images.to(self.dtype)).float()


def plain(image_shape: tuple[int, int, int], classes: int) -> nn.Module:
    return OddModel(image_shape, classes)


def unused(image_shape: tuple[int, int, int], classes: int) -> nn.Module:
    model = OddModel(image_shape, classes)
    model.body.add_module("aside", _Aside())
    return model


class _Aside(nn.Module):
    """Passes its input on; its layer is never called."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 2)

    def forward(self, values: Tensor) -> Tensor:
        return values


def tied(image_shape: tuple[int, int, int], classes: int) -> nn.Module:
    return Tied(image_shape, classes)


def scalar(image_shape: tuple[int, int, int], classes: int) -> nn.Module:
    model = OddModel(image_shape, classes)
    model.body.add_module("scale", Scale())
    return model


def half(image_shape: tuple[int, int, int], classes: int) -> nn.Module:
    return Half(image_shape, classes)


def brain_half(image_shape: tuple[int, int, int], classes: int) -> nn.Module:
    return Half(image_shape, classes, torch.bfloat16)


def frozen(image_shape: tuple[int, int, int], classes: int) -> nn.Module:
    model = OddModel(image_shape, classes)
    model.body.requires_grad_(False)
    return model
