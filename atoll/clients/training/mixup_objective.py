"""Mixup objective: the loss of convex combinations of a client's examples (Zhang et al., 2018).

DomainBed mixes pairs of domains; a client that holds one domain has no other to mix with, so in a
federation this is not the centralised method: it is Mixup within each client.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn

from atoll.clients.training.gradients import Objective


def mixup_objective(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    alpha: float,
    seed: int,
    factors: Tensor,
    losses_of: Callable[[Tensor, Tensor], Tensor],
) -> Objective:
    """Return the loss of mixed examples as an objective.

    Parameters
    ----------
    images, labels : Tensor
        The client's examples.
    alpha : float
        Mixing coefficients are drawn from Beta(alpha, alpha), one a batch.
    seed : int
        Of the coefficients and of the partners.
    factors : Tensor
        Shape (n,): what each example's loss counts for.
    losses_of : callable
        Each example's loss, of a model's outputs and labels.
    """
    generator = np.random.default_rng(seed)

    def objective(chosen: Tensor) -> tuple[Tensor, Tensor]:
        share = float(generator.beta(alpha, alpha))
        partner = chosen[torch.from_numpy(generator.permutation(len(chosen)))]
        logits = model(share * images[chosen] + (1 - share) * images[partner])
        own, others = losses_of(logits, labels[chosen]), losses_of(logits, labels[partner])
        loss = (share * factors[chosen] * own + (1 - share) * factors[partner] * others).mean()
        return loss, (share * own + (1 - share) * others).detach().mean()

    return objective
