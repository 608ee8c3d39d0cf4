"""Image priors as cost terms.

Each takes candidates of shape (candidates, n, channels, height, width), normalised, and returns a
cost a candidate.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call, vmap

from atoll.attacks.threat.victim_model import VictimModel
from atoll.errors import AttackError

# A prior as a cost of stacks of candidates.
PriorCost = Callable[[Tensor], Tensor]


def total_variation(images: Tensor) -> Tensor:
    """Return the mean absolute difference of neighbours, down plus across (anisotropic).

    Parameters
    ----------
    images : Tensor
        Shape (candidates, n, channels, height, width).

    Returns
    -------
    Tensor
        Shape (candidates,).

    Examples
    --------
    >>> import torch
    >>> from atoll.attacks import total_variation
    >>> total_variation(torch.tensor([[[[[0.0, 1.0], [0.0, 1.0]]]]]))
    tensor([1.])
    """
    return _variation(images)


class _TotalVariation(torch.autograd.Function):
    """Total variation with a derivative in a third of autograd's passes over the images."""

    @staticmethod
    def forward(ctx: Any, images: Tensor) -> Tensor:
        down = images[..., 1:, :] - images[..., :-1, :]
        across = images[..., 1:] - images[..., :-1]
        ctx.save_for_backward(down, across)
        return down.abs().flatten(1).mean(1) + across.abs().flatten(1).mean(1)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        down, across = ctx.saved_tensors
        each = gradients[0].view(-1, *[1] * (down.dim() - 1))
        of_down = down.sign().mul_(each / down[0].numel())
        of_across = across.sign().mul_(each / across[0].numel())
        gradient = F.pad(of_down, (0, 0, 1, 0))
        gradient[..., :-1, :] -= of_down
        gradient[..., 1:] += of_across
        gradient[..., :-1] -= of_across
        return gradient


_variation = cast(Callable[[Tensor], Tensor], _TotalVariation.apply)


def l2_norm(images: Tensor) -> Tensor:
    """Return the norm of all of a candidate's images together, over the pixels of one.

    As GIFD's ``||x||_2 / S^2``, with S^2 the height times the width.
    """
    height, width = images.shape[-2:]
    squares = images.flatten(1).square().sum(1)
    return squares.clamp_min(1e-12).sqrt() / (height * width)


def group_consistency(restarts: int) -> PriorCost:
    """Return the prior that a victim's restarts agree (GradInversion; Yin et al., 2021, eq. 11).

    It is the squared distance from the restarts' mean, a constant in the derivative, over the
    number of values.

    Parameters
    ----------
    restarts : int
        Candidates are victims times restarts, a victim's next to each other.
    """

    def prior(images: Tensor) -> Tensor:
        grouped = images.view(-1, restarts, *images.shape[1:])
        mean = grouped.detach().mean(1, keepdim=True)
        return (grouped - mean).square().flatten(2).mean(2).flatten()

    return prior


def batch_norm_statistics(
    model: VictimModel,
    statistics: Sequence[Mapping[str, tuple[Tensor, Tensor]]],
    first_weight: float = 10.0,
) -> PriorCost:
    """Return the prior that features have known means and variances (Yin et al., 2021, eq. 10).

    It is the sum over layers of the distance of the batch's mean from the known one, plus that of
    its variance.

    Parameters
    ----------
    model : VictimModel
        Has the BatchNorm layers.
    statistics : Sequence[Mapping[str, tuple[Tensor, Tensor]]]
        Per candidate, by the layer's name: mean and variance, each of shape (channels,).
    first_weight : float
        What the first layer counts for.

    Raises
    ------
    AttackError
        If the model has no BatchNorm layers.
    """
    layers = model.batch_norms
    if not layers:
        raise AttackError("the model has no BatchNorm layers; expected some for their prior")
    known = [
        [torch.stack(part) for part in zip(*(own[name] for own in statistics), strict=True)]
        for name, _ in layers
    ]

    def features(images: Tensor) -> list[tuple[Tensor, Tensor]]:
        return _input_statistics(model, images, layers)

    def prior(images: Tensor) -> Tensor:
        found = vmap(features)(images) if len(images) > 1 else _of_one(features, images)
        total = images.new_zeros(len(images))
        for index, ((mean, variance), (known_mean, known_variance)) in enumerate(
            zip(found, known, strict=True)
        ):
            distance = (mean - known_mean).norm(dim=1) + (variance - known_variance).norm(dim=1)
            total = total + (first_weight if index == 0 else 1.0) * distance
        return total

    return prior


def _of_one(
    features: Callable[[Tensor], list[tuple[Tensor, Tensor]]], images: Tensor
) -> list[tuple[Tensor, Tensor]]:
    return [(mean[None], variance[None]) for mean, variance in features(images[0])]


def _input_statistics(
    model: VictimModel, images: Tensor, layers: Sequence[tuple[str, nn.Module]]
) -> list[tuple[Tensor, Tensor]]:
    """Return mean and variance by channel of each layer's input."""
    seen: list[tuple[Tensor, Tensor]] = []

    def keep(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        flat = inputs[0].transpose(0, 1).flatten(1)
        # Running variances are unbiased; of a single value there is none.
        seen.append((flat.mean(1), flat.var(1, correction=min(1, flat.shape[1] - 1))))

    handles = [layer.register_forward_pre_hook(keep) for _, layer in layers]
    try:
        functional_call(model.module, model.parameters, (images,))
    finally:
        for handle in handles:
            handle.remove()
    return seen


def running_statistics(
    model: VictimModel, buffers: Mapping[str, Tensor]
) -> dict[str, tuple[Tensor, Tensor]]:
    """Return the running mean and variance of each BatchNorm layer.

    Raises
    ------
    AttackError
        If ``buffers`` lack one.
    """
    found = {}
    for name, _ in model.batch_norms:
        mean, variance = f"{name}.running_mean", f"{name}.running_var"
        if mean not in buffers or variance not in buffers:
            raise AttackError(f"there are no running statistics of {name!r}; expected {mean!r}")
        found[name] = buffers[mean].to(model.device), buffers[variance].to(model.device)
    return found


def batch_statistics(
    model: VictimModel, before: Mapping[str, Tensor], after: Mapping[str, Tensor]
) -> dict[str, tuple[Tensor, Tensor]]:
    """Return the statistics of a client's one batch, from its buffers before and after the step.

    BatchNorm moves a running statistic to (1 - m) before + m batch, so the batch's is
    (after - (1 - m) before) / m.

    Parameters
    ----------
    before, after : Mapping[str, Tensor]
        Buffers that were broadcast, and those of the reply.

    Raises
    ------
    AttackError
        If a layer's buffers are missing, or it keeps a cumulative average.
    """
    old, new = running_statistics(model, before), running_statistics(model, after)
    found = {}
    for name, layer in model.batch_norms:
        momentum = layer.momentum
        if not isinstance(momentum, float):
            raise AttackError(f"{name!r} keeps a cumulative average; expected a momentum")
        mean, variance = (
            (of_new - (1 - momentum) * of_old) / momentum
            for of_new, of_old in zip(new[name], old[name], strict=True)
        )
        found[name] = mean, variance.clamp_min(0.0)
    return found
