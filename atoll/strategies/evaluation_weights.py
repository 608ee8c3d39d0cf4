"""Weights of clients' evaluations, where a strategy weights training replies by something else."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from flwr.serverapp.strategy import FedAvg

EXAMPLES = "num-examples"


@contextmanager
def weighted_by_examples(strategy: FedAvg) -> Iterator[None]:
    """Within this context a strategy weights replies by their numbers of examples.

    Flower's FedAvg has one key for training and evaluation, and an evaluation lacks the others.
    """
    of_training, strategy.weighted_by_key = strategy.weighted_by_key, EXAMPLES
    try:
        yield
    finally:
        strategy.weighted_by_key = of_training
