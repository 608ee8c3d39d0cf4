"""Stacked linear layers: many clients' networks in one batched product, without ``vmap``.

``vmap`` lowers a linear layer to ``bmm(x, W^T)``, whose gradient comes back as a transposed view
that the update then reads across its rows. Here the gradient is written as g^T x, in the weights'
own layout, and nothing is spent on dispatching batched tensors: on one core, a step of 4 to 16
clients of 784-200-10 takes about a third less time.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import torch
from torch import Tensor, nn

Forward = Callable[[dict[str, Tensor], Tensor], Tensor]

_ELEMENTWISE = (
    nn.Dropout,
    nn.ELU,
    nn.GELU,
    nn.Identity,
    nn.LeakyReLU,
    nn.ReLU,
    nn.Sigmoid,
    nn.SiLU,
    nn.Tanh,
)


def stacked_linear_layers(model: nn.Module) -> Forward | None:
    """Return ``model``, as a function of stacked parameters and stacked images.

    Returns
    -------
    Callable or None
        Takes parameters by name, each (clients, *shape), and images (clients, n, channels,
        height, width), and returns logits (clients, n, classes). None if ``model`` is not a
        plain sequence: flattening first, then linear layers and elementwise functions.
    """
    layers = list(model.named_children())
    is_plain = type(model) is nn.Sequential and not any(map(_has_hooks, model.modules()))
    if not is_plain or not layers or not _is_flattening(layers[0][1]):
        return None
    if any(type(layer) not in (nn.Linear, *_ELEMENTWISE) for _, layer in layers[1:]):
        return None

    def forward(parameters: dict[str, Tensor], images: Tensor) -> Tensor:
        x = images.flatten(2)
        for name, layer in layers[1:]:
            if isinstance(layer, nn.Linear):
                x = _linear(x, parameters.get(f"{name}.weight", layer.weight))
                if layer.bias is not None:
                    x = x + parameters.get(f"{name}.bias", layer.bias).unsqueeze(-2)
            else:
                x = layer(x)
        return x

    return forward


def _is_flattening(layer: nn.Module) -> bool:
    return type(layer) is nn.Flatten and (layer.start_dim, layer.end_dim) == (1, -1)


def _has_hooks(module: nn.Module) -> bool:
    return bool(module._forward_hooks or module._forward_pre_hooks or module._backward_hooks)


class _Linear(torch.autograd.Function):
    """Map x (clients, n, i) and W (clients, o, i) to x W^T."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight)
        return torch.matmul(x, weight.mT)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, Tensor | None]:
        x, weight = ctx.saved_tensors
        (gradient,) = gradients
        of_x = torch.matmul(gradient, weight) if ctx.needs_input_grad[0] else None
        of_weight = torch.matmul(gradient.mT, x) if ctx.needs_input_grad[1] else None
        return of_x, of_weight


_linear = cast(Callable[[Tensor, Tensor], Tensor], _Linear.apply)
