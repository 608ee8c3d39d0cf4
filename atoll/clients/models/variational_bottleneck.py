"""PRECODE: a variational bottleneck before a model's head.

Scheliga, Mäder and Seeland, "PRECODE - A Generic Model Extension to Prevent Deep Gradient
Leakage", WACV 2022. The features are encoded as a normal distribution, a sample of which is
decoded to features again; the sample's randomness is in every gradient that comes from below.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from atoll.clients.data.inputs.images import images_of
from atoll.clients.models import MODELS
from atoll.clients.models.head import find_head
from atoll.clients.models.model_building import given_arguments
from atoll.clients.ranges import Width
from atoll.clients.tasks.classification import classes_of


class VariationalBottleneck(nn.Module):
    """Features in, a decoded sample of their code out.

    Parameters
    ----------
    features : int
        The width of what goes in and comes out.
    width : int
        The code's.

    Attributes
    ----------
    divergence : Tensor
        Of the last batch: KL(N(mu, sigma^2) || N(0, 1)), summed over the code, the mean over the
        batch.
    """

    def __init__(self, features: int, width: int) -> None:
        super().__init__()
        self.encoder = nn.Linear(features, 2 * width)
        self.decoder = nn.Linear(width, features)
        self.divergence = torch.zeros(())

    def forward(self, features: Tensor) -> Tensor:
        """Map (n, features) to the same shape; the mean code is decoded in evaluation mode."""
        mean, spread = self.encoder(features).chunk(2, dim=1)
        deviation = F.softplus(spread)
        code = mean
        if self.training:
            code = mean + torch.randn_like(mean) * deviation
            variance = deviation.square()
            terms = mean.square() + variance - torch.log(variance + 1e-12) - 1.0
            self.divergence = 0.5 * terms.sum(1).mean()
        decoded: Tensor = self.decoder(code)
        return decoded


def precode(
    image_shape: tuple[int, int, int],
    classes: int,
    base: str = "lenet",
    width: Width = 256,
    **arguments: Any,
) -> nn.Module:
    """Return a model with a variational bottleneck before its head.

    Its divergence is part of the loss where the defense ``precode`` is among ``client.mods``.

    Parameters
    ----------
    base : str
        The model's name, or ``module:callable``; other arguments are its own.
    width : int
        Of the bottleneck's code.

    Raises
    ------
    ValueError
        If the base has no linear head.
    """
    make = MODELS.find(base, "model.base")
    model = make(**given_arguments(make, images_of(image_shape), classes_of(classes)), **arguments)
    head = find_head(model)
    if not isinstance(head, nn.Linear):
        raise ValueError(f"the head of {base!r} is a {type(head).__name__}; expected a Linear")
    bottleneck = VariationalBottleneck(head.in_features, width)
    if head is model:
        return nn.Sequential(bottleneck, head)
    [name] = [name for name, module in model.named_modules() if module is head]
    parent, _, child = name.rpartition(".")
    setattr(model.get_submodule(parent), child, nn.Sequential(bottleneck, head))
    return model


def find_bottleneck(model: nn.Module) -> VariationalBottleneck:
    """Return a model's bottleneck.

    Raises
    ------
    ValueError
        If it has none.
    """
    for module in model.modules():
        if isinstance(module, VariationalBottleneck):
            return module
    raise ValueError(
        "the model has no variational bottleneck; expected model.name = 'precode' with model.base"
    )
