"""Analytic reconstruction from a linear layer on the pixels (Phong et al., 2018).

For z = W x + b the gradients are dW = d x^T and db = d, so each row of dW over its entry of db is
x: exactly, for one image; for several, a mixture weighted by d.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from atoll.attacks.base.attack import Reconstruction, SeparateAttack
from atoll.attacks.base.optimization_attack import to_unit
from atoll.attacks.threat.observation import Observation
from atoll.errors import AttackError


class LinearLayer(SeparateAttack):
    """Quotient of the first layer's weight gradient and its bias gradient.

    Of one image it is exact, also after any number of steps. Of several, it returns as many rows as
    there are images, those with the largest bias gradients: mixtures, in which the images of a
    row's class weigh most.
    """

    def check(self, observation: Observation) -> None:
        """Refuse a model that does not begin with a linear layer with a bias."""
        first_linear(observation)

    def reconstruct(self, observation: Observation, seed: int) -> Reconstruction:
        """Divide."""
        weight, bias = (observation.target[place].double() for place in first_linear(observation))
        count = observation.num_images
        if count == 1:
            # The least-squares x of all rows: noise in small rows hardly counts.
            pixels = (bias @ weight / bias.square().sum().clamp_min(1e-300))[None]
        else:
            rows = bias.abs().topk(min(count, len(bias))).indices
            safe = torch.where(bias[rows] == 0, 1.0, bias[rows])
            pixels = _repeated(weight[rows] / safe[:, None], count)
        images = pixels.view(count, *observation.space.shape)
        return Reconstruction(to_unit(observation, images), torch.full((count,), -1), "none")


def _repeated(rows: Tensor, count: int) -> Tensor:
    return rows[torch.arange(count) % len(rows)]


def first_linear(observation: Observation) -> tuple[int, int]:
    """Return where the first layer's weight and bias are among the parameters.

    Raises
    ------
    AttackError
        If the first layer with parameters is not linear in the pixels, or has no bias.
    """
    model = observation.model
    size = math.prod(observation.space.shape)
    # A layer that is not trained has its weight among its buffers.
    named = [
        (n, m)
        for n, m in model.module.named_modules()
        if list(m.parameters(recurse=False)) or isinstance(getattr(m, "weight", None), Tensor)
    ]
    name, first = named[0]
    if not isinstance(first, nn.Linear) or first.in_features != size or first.bias is None:
        raise AttackError(
            f"the model's first layer is {type(first).__name__} ({name!r}); expected a linear "
            f"layer on the {size} pixel values, with a bias"
        )
    places = model.place_of(first.weight), model.place_of(first.bias)
    weight, bias = places
    if weight is None or bias is None:
        raise AttackError(
            f"the model's first layer ({name!r}) is not trained; expected one whose weight and "
            "bias are in the update"
        )
    return weight, bias
