"""Clients with parameters and models of their own: our ClientApp, for either engine.

Run as a script, it runs on stock Flower's simulation.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from flwr.app import ConfigRecord, Context, Message
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid
from flwr.serverapp.strategy import FedAvg

from atoll.clients.apps.client_app import make_client_app
from tests.support.apps.stock_simulation import Results, keep_results
from tests.support.clients.personal_federation import CLIENTS, initial_model, spec_of

ROUNDS = 2
# They keep records of different names with a node, so that one does not see the other's.
METHODS: dict[str, dict[str, Any]] = {
    "fedbn": {"local": "norm"},
    "ditto": {"personal": {"name": "ditto"}},
}


@cache
def app_of(name: str) -> ClientApp:
    """Return a method's ClientApp."""
    return make_client_app(spec_of(METHODS[name]))


app = ClientApp()


@app.train()
@app.evaluate()
def answer(message: Message, context: Context) -> Message:
    """Answer as a client of the method that the message names."""
    name = str(message.content.config_records["config"]["method"])
    return app_of(name)(message, context)


def run_method(name: str, start: Callable[..., Any]) -> dict[str, np.ndarray]:
    """Run FedAvg; ``start(strategy, **arguments)`` is its ``start``, or our loop."""
    spec = spec_of(METHODS[name])
    result = start(
        FedAvg(min_train_nodes=CLIENTS, min_available_nodes=CLIENTS),
        initial_arrays=spec.arrays_of(initial_model(spec)).read(),
        num_rounds=ROUNDS,
        train_config=ConfigRecord({"method": name}),
        evaluate_config=ConfigRecord({"method": name}),
    )
    told = result.evaluate_metrics_clientapp[ROUNDS]
    own = [told[key] for key in ("accuracy", "personal-accuracy", "personal-loss")]
    return {**{k: a.numpy() for k, a in result.arrays.items()}, "evaluation": np.array(own)}


def results_on(grid: Grid, context: Context) -> Results:
    """Run all of them, each with the strategy's own ``start``."""
    return {
        name: run_method(name, lambda s, **named: s.start(grid=grid, **named)) for name in METHODS
    }


def main(target: Path) -> None:
    """Run all of them on stock Flower's simulation, and keep what they come to."""
    keep_results(target, app, CLIENTS, results_on)


if __name__ == "__main__":
    # Under this name workers can import what the app calls; a script's own caches have no name.
    from tests.support.apps import personal_app

    personal_app.main(Path(sys.argv[1]))
