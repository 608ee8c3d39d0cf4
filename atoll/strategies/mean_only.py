"""Mark of an aggregation that uses nothing of the replies but their weighted mean.

The engine adds up the replies to such a strategy where they are made. The mark is on the method,
so a subclass that overrides it does not inherit the promise.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

Method = TypeVar("Method", bound=Callable[..., Any])
_MARK = "uses_mean_only"


def uses_mean_only(aggregate_train: Method) -> Method:
    """Mark an ``aggregate_train`` that uses only the weighted mean of arrays and metrics.

    Examples
    --------
    >>> from flwr.serverapp.strategy import FedAvg
    >>> from atoll.strategies import uses_mean_only
    >>> class Logged(FedAvg):
    ...     '''Prints the round, and aggregates as FedAvg does.'''
    ...
    ...     @uses_mean_only
    ...     def aggregate_train(self, server_round, replies):
    ...         print("round", server_round)
    ...         return super().aggregate_train(server_round, replies)
    >>> Logged().aggregate_train(1, [])
    round 1
    (None, None)
    """
    setattr(aggregate_train, _MARK, True)
    return aggregate_train


def is_mean_only(aggregate_train: object) -> bool:
    """Tell whether an ``aggregate_train`` is marked."""
    return getattr(aggregate_train, _MARK, False) is True
