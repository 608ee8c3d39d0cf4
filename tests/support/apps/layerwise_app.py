"""Layerwise strategies on a small federation of NoProp clients, for either engine.

Run as a script, it runs them on stock Flower's simulation, with each strategy's own ``start``.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from flwr.app import Context, Message
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid

from atoll.clients.apps.client_app import make_client_app
from atoll.clients.apps.noprop_clients import CAPACITY
from atoll.platform.config.experiment import Experiment
from atoll.platform.runs.federation import Federation, prepare
from atoll.randomness import seed_everything
from tests.support.apps.stock_simulation import Results, keep_results

NODES, ROUNDS, BLOCKS = 4, 2, 2
STRATEGIES: dict[str, dict[str, Any]] = {
    "FedAvg": {"name": "Layerwise"},
    "FedProx": {"name": "Layerwise", "strategy": {"name": "FedProx", "proximal_mu": 1.0}},
    "FedAdam": {"name": "Layerwise", "strategy": {"name": "FedAdam", "eta": 0.01}},
    "asynchronous": {"name": "AsynchronousLayerwise", "buffer_size": NODES},
    # Which node gets which block is drawn among nodes, whose numbers are Flower's own there.
    "one block": {"name": "Layerwise", "layers_per_client": 1},
    "slow": {"name": "AsynchronousLayerwise", "delays": [1, 2]},
}
SAME_ON_BOTH = ("FedAvg", "FedProx", "FedAdam", "asynchronous")


def federation(strategy: dict[str, Any]) -> Federation:
    tables = {
        "run": {"rounds": ROUNDS, "seed": 3},
        "data": {"dataset": "digits", "clients": NODES, "train_examples": 200},
        "model": {"name": "noprop-dt", "block": "small", "steps": BLOCKS, "mean_of": 1},
        "client": {"optimizer": "sgd", "learning_rate": 0.05, "batch_size": 16},
        "strategy": strategy,
    }
    return prepare(Experiment.from_dict(tables))


@cache
def clients() -> ClientApp:
    return make_client_app(federation(STRATEGIES["FedAvg"]).spec)


def answer(message: Message, context: Context) -> Message:
    """Let the client answer."""
    return clients()(message, context)


app = ClientApp()
app.train()(answer)
app.query(CAPACITY)(answer)


def final_arrays(name: str, start: Callable[..., Any]) -> dict[str, np.ndarray]:
    """Run a strategy; ``start(strategy, arrays, rounds)`` is its ``start``, or our loop."""
    made = federation(STRATEGIES[name])
    seed_everything(3)
    result = start(made.strategy, made.initial_arrays, ROUNDS)
    return {key: array.numpy() for key, array in result.arrays.items()}


def results_on(grid: Grid, context: Context) -> Results:
    """Run all of them with their own ``start``."""
    return {name: final_arrays(name, lambda s, *rest: s.start(grid, *rest)) for name in STRATEGIES}


def main(target: Path) -> None:
    """Run all of them on stock Flower's simulation, and keep what they come to."""
    keep_results(target, app, NODES, results_on)


if __name__ == "__main__":
    # Under this name workers can import what the app calls; a script's own caches have no name.
    from tests.support.apps import layerwise_app

    layerwise_app.main(Path(sys.argv[1]))
