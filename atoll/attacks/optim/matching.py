"""Matching costs: distances between simulated and observed updates.

Each takes updates as tensors a parameter, stacked over candidates, and the targets of those
candidates in the same shapes; it returns a cost a candidate, 0 (or the least) for equal updates.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property

import torch
from torch import Tensor

Stacked = Sequence[Tensor]
Cost = Callable[[Stacked, Stacked], Tensor]
# No update is as small; it keeps the derivative finite where an update is zero.
TINY = 1e-30


class Targets(tuple[Tensor, ...]):
    """Observed updates, flattened once for all comparisons."""

    @cached_property
    def flat(self) -> Tensor:
        """Whole updates: shape (candidates, all values)."""
        return _flat(tuple(self))


def squared_l2(updates: Stacked, targets: Stacked) -> Tensor:
    """Return the sum of squared differences (DLG; Zhu et al., 2019): shape (candidates,).

    Parameters
    ----------
    updates, targets : Sequence[Tensor]
        A tensor a parameter, each ``(candidates, *shape)``.

    Returns
    -------
    Tensor
        Shape (candidates,).

    Examples
    --------
    >>> import torch
    >>> from atoll.attacks import squared_l2
    >>> squared_l2([torch.ones(2, 3)], [torch.zeros(2, 3)])
    tensor([3., 3.])
    """
    return (_flat(updates) - _flat(targets)).square().sum(1)


def mean_squared_l2(updates: Stacked, targets: Stacked) -> Tensor:
    """Return the mean over parameters of the sum of squared differences (GGL; Li et al., 2022)."""
    return squared_l2(updates, targets) / len(updates)


def cosine(updates: Stacked, targets: Stacked) -> Tensor:
    """Return 1 - the cosine of the angle between whole updates (Geiping et al., 2020, eq. 4).

    It does not change with the scale of either, so clipping does not touch it.

    Parameters
    ----------
    updates, targets : Sequence[Tensor]
        A tensor a parameter, each ``(candidates, *shape)``.

    Returns
    -------
    Tensor
        Shape (candidates,).

    Examples
    --------
    >>> import torch
    >>> from atoll.attacks import cosine
    >>> cosine([torch.ones(1, 3)], [2 * torch.ones(1, 3)])
    tensor([0.])
    """
    found, wanted = _flat(updates), _flat(targets)
    squares = found.square().sum(1) * wanted.square().sum(1)
    return 1 - (found * wanted).sum(1) * squares.clamp_min(TINY).rsqrt()


def layerwise_cosine(updates: Stacked, targets: Stacked) -> Tensor:
    """Return the mean over parameters of 1 - the cosine of each."""
    return torch.stack([cosine([u], [t]) for u, t in zip(updates, targets, strict=True)]).mean(0)


def weighted(cost: Cost, weights: Sequence[float]) -> Cost:
    """Return ``cost`` of updates whose parameters are multiplied by weights first.

    A weight of zero leaves a parameter out, the weight of a layer that a defense has changed, say.

    Parameters
    ----------
    weights : Sequence[float]
        One a parameter.
    """

    def cost_of_weighted(updates: Stacked, targets: Stacked) -> Tensor:
        kept = [
            (u * w, t * w) for u, t, w in zip(updates, targets, weights, strict=True) if w != 0.0
        ]
        return cost([u for u, _ in kept], [t for _, t in kept])

    return cost_of_weighted


def later_layers_weigh_more(parameters: int) -> list[float]:
    """Return weights that rise evenly from 1/parameters to 1 with depth (Wei et al., 2020)."""
    return [(index + 1) / parameters for index in range(parameters)]


def on_support(cost: Cost) -> Cost:
    """Return ``cost`` of the entries that are not zero in the target.

    What a client pruned from its update is zero there, whatever the rule by which it pruned.
    """

    def cost_on_support(updates: Stacked, targets: Stacked) -> Tensor:
        return cost([u * (t != 0) for u, t in zip(updates, targets, strict=True)], targets)

    return cost_on_support


def on_largest(cost: Cost, share: float) -> Cost:
    """Return ``cost`` of the entries that are largest in the target: partial gradient matching.

    Fewer entries are easier to match (FedLeak; Fan et al., 2025). Here those are kept in each
    parameter, for each candidate, whose observed values have the largest magnitudes.

    Parameters
    ----------
    share : float
        How many of a parameter's entries are kept, in (0, 1]; at least one. 1 returns ``cost``.
    """
    if share == 1.0:
        return cost

    def cost_on_largest(updates: Stacked, targets: Stacked) -> Tensor:
        masks = [_is_large(target, share) for target in targets]
        return cost(
            [u * mask for u, mask in zip(updates, masks, strict=True)],
            [t * mask for t, mask in zip(targets, masks, strict=True)],
        )

    return cost_on_largest


def _is_large(target: Tensor, share: float) -> Tensor:
    """Return which entries are among the largest of their candidate, as 0 and 1."""
    sizes = target.abs().flatten(1)
    kept = max(1, round(share * sizes.shape[1]))
    least = sizes.topk(kept, 1).values[:, -1:]
    return (sizes >= least).to(target.dtype).view_as(target)


def _flat(tensors: Stacked) -> Tensor:
    """Return whole updates: shape (candidates, all values)."""
    if isinstance(tensors, Targets):
        return tensors.flat
    return torch.cat([tensor.reshape(len(tensor), -1) for tensor in tensors], 1)


COSTS: dict[str, Cost] = {
    "l2": squared_l2,
    "mean-l2": mean_squared_l2,
    "cosine": cosine,
    "layerwise-cosine": layerwise_cosine,
}
