"""Masks of frozen weights: what is trained is a score a weight, and a weight counts or is zero.

Zheng et al. (2023), "Regularized Mask Tuning", arXiv 2307.15049; the straight-through gradient is
that of Mallya et al. (2018), "Piggyback".
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from atoll.clients.models.head import find_head
from atoll.clients.settings import MaskSettings

MASKED = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)


class MaskedWeight(nn.Module):
    """A frozen weight times 1 where a score is over a threshold, and times 0 elsewhere.

    Parameters
    ----------
    weight : Tensor
        The frozen one.
    settings : MaskSettings
        ``[model.masks]``.
    """

    def __init__(self, weight: Tensor, settings: MaskSettings) -> None:
        super().__init__()
        self.frozen = nn.Parameter(weight.detach().clone(), requires_grad=False)
        self.scale, self.threshold = settings.scale, settings.threshold

    def forward(self, scores: Tensor) -> Tensor:
        """Return the masked weight; its gradient passes the threshold as if that were not there."""
        kept: Tensor = _Threshold.apply(scores, self.threshold)  # type: ignore[no-untyped-call]
        return self.frozen * kept

    def right_inverse(self, weight: Tensor) -> Tensor:
        """Return the scores at first, with which every weight counts."""
        return torch.full_like(weight, self.scale)


class _Threshold(torch.autograd.Function):
    """1 over a threshold and 0 elsewhere, with the derivative of the identity."""

    generate_vmap_rule = True

    @staticmethod
    def forward(scores: Tensor, threshold: float) -> Tensor:
        """Return the mask."""
        return (scores > threshold).to(scores.dtype)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        """Keep nothing."""

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        """Return the mask's gradient as that of the scores."""
        return gradients[0], None


def with_masks(model: nn.Module, settings: MaskSettings) -> nn.Module:
    """Freeze a model, and give the weights of its layers masks to train.

    Masks are 1 at first: the model's outputs are what they were. The head is trained whole.

    Parameters
    ----------
    model : nn.Module
        Changed in place.
    settings : MaskSettings
        ``[model.masks]``.

    Raises
    ------
    ValueError
        If no layer beside the head has a weight to mask.
    """
    head = find_head(model)
    of_head = {id(module) for module in head.modules()}
    layers = [m for m in model.modules() if isinstance(m, MASKED) and id(m) not in of_head]
    if not layers:
        raise ValueError("model.masks: no linear or convolutional layer beside the head")
    model.requires_grad_(False)
    head.requires_grad_(True)
    for layer in layers:
        parametrize.register_parametrization(layer, "weight", MaskedWeight(layer.weight, settings))
        layer.parametrizations.weight.original.requires_grad_(True)  # type: ignore[union-attr]
    return model


def masks_of(model: nn.Module) -> list[tuple[nn.Parameter, MaskedWeight]]:
    """Return a model's scores with what they mask, in the order of its layers."""
    return [
        (module.parametrizations.weight.original, part)  # type: ignore[union-attr, misc]
        for module in model.modules()
        if parametrize.is_parametrized(module, "weight")
        for part in module.parametrizations.weight  # type: ignore[union-attr]
        if isinstance(part, MaskedWeight)
    ]
