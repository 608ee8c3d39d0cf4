"""All alignment strategies on a small federation, for either engine.

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
from atoll.clients.moments.moment_messages import MOMENTS
from atoll.platform.config.experiment import Experiment
from atoll.platform.runs.federation import Federation, prepare
from atoll.randomness import seed_everything
from atoll.strategies.alignment import ALIGNMENT_STRATEGIES
from tests.support.apps.stock_simulation import Results, keep_results

NODES, ROUNDS = 4, 2
MODELS = {"mlp-irm": {"name": "mlp-irm", "hidden": 16}, "gaussian": {"name": "gaussian"}}
LOCAL = {"fraction_evaluate": 0.0}
STEP = {
    **LOCAL,
    "client_update": "gradient",
    "server_optimizer": "sgd",
    "server_learning_rate": 0.1,
    "anneal_rounds": 0,
    "penalty_weight": 10.0,
}
# Weights with which penalties show in two rounds, and the methods with an update of their own.
SETTINGS = {
    "HGP": {**STEP, "penalty_weight": 1e3},
    "Hutchinson": {**STEP, "penalty_weight": 1e3},
    "Fishr": {**STEP, "penalty_weight": 1e4},
    "GroupDRO": {**STEP, "eta": 10.0},
    "AFL": {**STEP, "eta": 10.0},
    "CMA": {**STEP, "penalty_weight": 0.1},
    "Fish": {**LOCAL, "server_learning_rate": 1e-3},
    "GNS": LOCAL,
    "FedGMA": LOCAL,
    "FedDGGA": LOCAL,
    "Mixup": LOCAL,
}


def model_of(name: str) -> str:
    """FedSR needs a model whose features are drawn."""
    return "gaussian" if name == "FedSR" else "mlp-irm"


def federation(model: str, strategy: dict[str, Any]) -> Federation:
    tables = {
        "run": {"rounds": ROUNDS, "seed": 3},
        "data": {
            "dataset": "colored-digits",
            "clients": NODES,
            "held_out": ["e0.9"],
            "partition": {"name": "domain", "weights": [1.0, 3.0, 1.0, 2.0]},
        },
        "model": MODELS[model],
        "client": {"batch_size": 4000},
        "strategy": strategy,
    }
    return prepare(Experiment.from_dict(tables))


@cache
def app_of(model: str) -> ClientApp:
    return make_client_app(federation(model, {"name": "ERM"}).spec)


@cache
def keys_of(model: str) -> frozenset[str]:
    return frozenset(federation(model, {"name": "ERM"}).initial_arrays)


def answer(message: Message, context: Context) -> Message:
    """Let the client of the model whose arrays came answer."""
    sent = frozenset(message.content.array_records["arrays"])
    [model] = [name for name in MODELS if keys_of(name) == sent]
    return app_of(model)(message, context)


app = ClientApp()
app.train()(answer)
app.query(MOMENTS)(answer)


def final_arrays(name: str, start: Callable[..., Any]) -> dict[str, np.ndarray]:
    """Run a strategy; ``start(strategy, arrays, rounds)`` is its ``start``, or our loop."""
    settings = {"name": name, **SETTINGS.get(name, STEP)}
    made = federation(model_of(name), settings)
    seed_everything(3)
    result = start(made.strategy, made.initial_arrays, ROUNDS)
    return {key: array.numpy() for key, array in result.arrays.items()}


def results_on(grid: Grid, context: Context) -> Results:
    """Run all of them with their own ``start``."""
    return {
        name: final_arrays(name, lambda s, *rest: s.start(grid, *rest))
        for name in ALIGNMENT_STRATEGIES
    }


def main(target: Path) -> None:
    """Run all of them on stock Flower's simulation, and keep what they come to."""
    keep_results(target, app, NODES, results_on)


if __name__ == "__main__":
    # Under this name workers can import what the app calls; a script's own caches have no name.
    from tests.support.apps import aligned_app

    aligned_app.main(Path(sys.argv[1]))
