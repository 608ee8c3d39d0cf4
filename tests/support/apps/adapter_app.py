"""Clients that train LoRA adapters: our ClientApp, for either engine.

Run as a script, it runs on stock Flower's simulation.
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
from flwr.serverapp.strategy import FedAvg

from atoll.clients.apps.client_app import make_client_app
from atoll.platform.config.experiment import Experiment
from atoll.platform.runs.federation import Federation, prepare
from tests.support.apps.stock_simulation import Results, keep_results

CLIENTS, ROUNDS = 3, 2


@cache
def federation() -> Federation:
    """Return clients of a perceptron, of which the adapters and the head train."""
    return prepare(
        Experiment.from_dict(
            {
                "run": {"rounds": ROUNDS, "seed": 3},
                "data": {"dataset": "digits", "clients": CLIENTS, "examples_per_client": 60},
                "model": {"name": "mlp", "hidden": [16], "adapters": {"rank": 2}},
                "client": {"learning_rate": 0.1, "batch_size": 16},
            }
        )
    )


app = ClientApp()


@app.train()
@app.evaluate()
def answer(message: Message, context: Context) -> Message:
    """Answer as a client; data and partition are made where the first message comes."""
    return _client_app()(message, context)


@cache
def _client_app() -> ClientApp:
    return make_client_app(federation().spec)


def final_arrays(start: Callable[..., Any]) -> dict[str, np.ndarray]:
    """Run FedAvg; ``start(strategy, **arguments)`` is its ``start``, or our loop."""
    result = start(
        FedAvg(min_train_nodes=CLIENTS, min_available_nodes=CLIENTS),
        initial_arrays=federation().initial_arrays,
        num_rounds=ROUNDS,
    )
    return {key: array.numpy() for key, array in result.arrays.items()}


def results_on(grid: Grid, context: Context) -> Results:
    """Run it with the strategy's own ``start``."""
    return {"lora": final_arrays(lambda s, **named: s.start(grid=grid, **named))}


def main(target: Path) -> None:
    """Run it on stock Flower's simulation, and keep what it comes to."""
    keep_results(target, app, CLIENTS, results_on)


if __name__ == "__main__":
    # Under this name workers can import what the app calls; a script's own caches have no name.
    from tests.support.apps import adapter_app

    adapter_app.main(Path(sys.argv[1]))
