"""Scores of a passive server: from the recorded messages of a run, nothing else.

Each takes the signals of the rounds in which the target client trained, and returns a score a
candidate, the larger the more likely a member.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from atoll.attacks.membership.candidate_signals import RoundSignals

Score = Callable[[Sequence[RoundSignals]], Tensor]


def loss_threshold(rounds: Sequence[RoundSignals]) -> Tensor:
    """Return the negative loss at the client's last model (Yeom et al., 2018).

    Parameters
    ----------
    rounds : Sequence[RoundSignals]
        At least one; losses of shape (n,).

    Returns
    -------
    Tensor
        Shape (n,).
    """
    return -rounds[-1].losses_after


def loss_drop(rounds: Sequence[RoundSignals]) -> Tensor:
    """Return by how much the client's training lowers the loss, in the mean over rounds."""
    return torch.stack([each.losses_before - each.losses_after for each in rounds]).mean(0)


def gradient_norm(rounds: Sequence[RoundSignals]) -> Tensor:
    """Return the negative norm of the gradient at the last model sent (Nasr et al., 2019)."""
    return -rounds[-1].norms


def gradient_cosine(rounds: Sequence[RoundSignals]) -> Tensor:
    """Return the cosine with the client's update, in the mean over rounds (Li et al., 2023)."""
    return torch.stack([each.cosines[:, 0] for each in rounds]).mean(0)


def fed_mia(rounds: Sequence[RoundSignals]) -> Tensor:
    """Return how far the client's cosines are above those of other clients, over all rounds.

    Others' updates say what the cosine of a candidate is with a client that does not have it: of
    each candidate and round a normal distribution. The score is the sum over rounds of the
    logarithm of its distribution function at the client's own cosine (after FedMIA: Zhu et al.,
    2025). Without two other clients in each round there is no distribution.

    Raises
    ------
    ValueError
        If a round has fewer than two other clients.
    """
    total = torch.zeros_like(rounds[0].norms, dtype=torch.float64)
    for each in rounds:
        others = each.cosines[:, 1:].double()
        if others.shape[1] < 2:
            raise ValueError("a round has fewer than two other clients; expected at least two")
        deviation = others.std(1).clamp_min(1e-12)
        z = (each.cosines[:, 0].double() - others.mean(1)) / deviation
        total += torch.special.log_ndtr(z)
    return total


SCORES: Mapping[str, Score] = {
    "loss": loss_threshold,
    "loss drop": loss_drop,
    "gradient norm": gradient_norm,
    "cosine": gradient_cosine,
    "FedMIA": fed_mia,
}
