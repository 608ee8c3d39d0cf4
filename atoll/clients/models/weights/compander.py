"""Weight Compander: weights as an increasing, bounded function of what is trained.

Cakaj, Mehnert & Yang (2023), "Weight Compander: A Simple Weight Reparameterization for
Regularization", arXiv 2306.16993.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from atoll.clients.settings import CompanderSettings

COMPANDED = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)


class Compander(nn.Module):
    """A weight w = a arctan(v/b), with a and b of the layer.

    What is kept and averaged are the logarithms of a and b. Their mean is again that of an
    increasing function, whatever clients learn.

    Parameters
    ----------
    settings : CompanderSettings
        ``[model.compander]``.

    Examples
    --------
    >>> import torch
    >>> from atoll.clients.settings import CompanderSettings
    >>> compander = Compander(CompanderSettings(scale=2.0))
    >>> compander(torch.tensor([0.0, 1e9])).detach()  # never more than 2 pi/2
    tensor([0.0000, 3.1416])
    """

    def __init__(self, settings: CompanderSettings) -> None:
        super().__init__()
        sizes = torch.tensor([settings.scale, settings.width]).log()
        self.log_sizes = nn.Parameter(sizes, requires_grad=settings.learned)

    def forward(self, inner: Tensor) -> Tensor:
        """Return the weights."""
        scale, width = self.log_sizes.exp()
        weight: Tensor = scale * torch.arctan(inner / width)
        return weight

    def right_inverse(self, weight: Tensor) -> Tensor:
        """Return what is trained at first: the model's outputs are what they were."""
        scale, width = self.log_sizes.detach().exp()
        inner: Tensor = width * torch.tan(weight / scale)
        return inner


def with_compander(model: nn.Module, settings: CompanderSettings) -> nn.Module:
    """Make each layer's weights a function of what is trained.

    Parameters
    ----------
    model : nn.Module
        Changed in place.
    settings : CompanderSettings
        ``[model.compander]``.

    Raises
    ------
    ValueError
        If no layer has such weights, or one of them is larger than the function's bound.
    """
    layers = [module for module in model.modules() if isinstance(module, COMPANDED)]
    if not layers:
        raise ValueError("model.compander: it has no linear or convolutional layer")
    bound = settings.scale * math.pi / 2
    largest = max(float(layer.weight.detach().abs().max()) for layer in layers)
    if largest >= bound:
        raise ValueError(
            f"model.compander.scale = {settings.scale:g}: a weight of {largest:.3g} is over the "
            f"bound {bound:.3g}; expected more than {largest * 2 / math.pi:.3g}"
        )
    for layer in layers:
        is_trained = layer.weight.requires_grad
        parametrize.register_parametrization(layer, "weight", Compander(settings))
        layer.parametrizations.weight.original.requires_grad_(is_trained)  # type: ignore[union-attr]
        if not is_trained:
            layer.parametrizations.requires_grad_(False)
    return model
