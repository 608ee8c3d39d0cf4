"""Checks of a method's penalty and of its gradient; users write methods of their own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from atoll.clients.moments.moment_messages import Term
from atoll.clients.moments.statistics import Loss
from atoll.errors import EngineError


def check_penalty(method: str, server_round: int, penalty: object) -> Tensor:
    """Return a method's penalty, if it is a finite scalar.

    Parameters
    ----------
    method : str
        The method's name, for the error.
    server_round : int
        The round.
    penalty : object
        What the method returned.

    Raises
    ------
    EngineError
        If it is no tensor, not of one element, or not finite.
    """
    if not isinstance(penalty, Tensor):
        raise EngineError(
            f"{method}.penalty returned a {type(penalty).__name__}; expected a scalar tensor"
        )
    if penalty.numel() != 1:
        raise EngineError(
            f"{method}.penalty returned a tensor of shape {tuple(penalty.shape)}; expected a scalar"
        )
    if not bool(penalty.isfinite()):
        raise EngineError(
            f"{method}.penalty is {float(penalty.detach())} in round {server_round}; expected a "
            "finite number (a smaller learning rate or penalty_weight may keep it so)"
        )
    return penalty.reshape(())


def check_terms(
    method: str,
    server_round: int,
    losses: Mapping[str, float],
    terms: Sequence[Term],
    dtype: torch.dtype,
) -> None:
    """Refuse a penalty whose gradient clients cannot train on: it overflows their numbers.

    Parameters
    ----------
    method : str
        The method's name, for the error.
    server_round : int
        The round.
    losses : Mapping[str, float]
        By domain, what the penalty adds to the weight of a loss.
    terms : Sequence[Term]
        The penalty's terms in other statistics.
    dtype : torch.dtype
        Of the clients' numbers.

    Raises
    ------
    EngineError
        Naming the statistic, the domain and the round.
    """
    largest = torch.finfo(dtype).max
    overflowing = [(Loss().name, name) for name, w in losses.items() if not abs(w) <= largest]
    for term in terms:
        parts = [term.cotangents, *term.by_node.values()]
        overflowing += [
            (term.statistic.name, name)
            for part in parts
            for name, values in part.items()
            if not bool(values.isfinite().all())
        ]
    if overflowing:
        statistic, domain = overflowing[0]
        kind = str(dtype).removeprefix("torch.")
        raise EngineError(
            f"the gradient of {method}.penalty overflows {kind} in round {server_round} (by "
            f"{statistic!r} of domain {domain!r}); expected a smaller strategy.penalty_weight"
        )
