"""Rounds to a loss of Newton steps by gradient-normalized smoothness, against other strategies.

``python -m benchmarks.accuracy.newton_rounds`` prints the table of docs/results/objectives.md. All
strategies train the same linear classifier, whose loss is convex, and a linear head on a frozen
network of random weights. A row is the first round after which the mean loss over all training
examples is at most a target; each strategy but GNS has the learning rate of those tried with which
it is there first.

Rounds are taken in this process: messages, ClientApp, aggregation. The loss of every round's model
is measured on the server, on the clients' own examples.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from typing import Any, cast

import numpy as np
from flwr.app import ConfigRecord
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Strategy
from torch import nn

from atoll import Experiment
from atoll.clients import evaluate
from atoll.clients.data.files.dataset import Dataset
from atoll.platform.runs.federation import prepare
from atoll.randomness import seed_everything
from benchmarks.accuracy.in_process import LocalClients, quiet_process
from benchmarks.accuracy.recorded import date_and_commit

SEEDS, CLIENTS, EXAMPLES = (0, 1, 2), 10, 1000
RATES = (0.03, 0.1, 0.3, 1.0, 3.0)
Tables = dict[str, Any]
# A strategy's table and what [client] has beside a rate; the rate is set by the last.
STRATEGIES: dict[str, Callable[[float], tuple[Tables, Tables]]] = {
    "GNS": lambda rate: ({"name": "GNS"}, {}),
    "gradient descent": lambda rate: (
        {
            "name": "ERM",
            "client_update": "gradient",
            "server_optimizer": "sgd",
            "server_learning_rate": rate,
            "domain_weights": "examples",
        },
        {},
    ),
    "FedAvg, 1 epoch": lambda rate: ({"name": "FedAvg"}, {"learning_rate": rate}),
    "FedAdam, 1 epoch": lambda rate: ({"name": "FedAdam", "eta": rate}, {"learning_rate": 0.03}),
}
MODELS: dict[str, Tables] = {
    "linear": {"name": "linear"},
    "head of a frozen network": {"name": "benchmarks.accuracy.newton_rounds:frozen_network"},
}


def frozen_network(image_shape: tuple[int, int, int], classes: int) -> nn.Module:
    """Return a network of random weights, of which the head alone is trained."""
    pixels = int(np.prod(image_shape))
    body = nn.Sequential(nn.Flatten(), nn.Linear(pixels, 100), nn.Tanh()).requires_grad_(False)
    return nn.Sequential(body, nn.Linear(100, classes))


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description="Rounds to a loss.")
    parser.add_argument("--models", nargs="+", choices=list(MODELS), default=list(MODELS))
    parser.add_argument(
        "--strategies", nargs="+", choices=list(STRATEGIES), default=list(STRATEGIES)
    )
    parser.add_argument("--rounds", type=int, default=60, help="at most")
    parser.add_argument("--targets", nargs="+", type=float, default=[0.5, 0.2, 0.1])
    given = parser.parse_args()
    quiet_process()
    print(date_and_commit())
    lowest = min(given.targets)
    for model in given.models:
        heads = [f"{target:g}" for target in given.targets]
        print(f"\n{model}\n\n| strategy | {' | '.join(heads)} |\n|---|{'---|' * len(heads)}")
        for name in given.strategies:
            make = STRATEGIES[name]
            rates = RATES if name != "GNS" else RATES[:1]
            found = [
                [list(losses(model, make(rate), seed, given.rounds, lowest)) for seed in SEEDS]
                for rate in rates
            ]
            cells = [_cell(found, rates, target) for target in given.targets]
            print(f"| {name} | {' | '.join(cells)} |", flush=True)


def losses(
    model: str, tables: tuple[Tables, Tables], seed: int, rounds: int, lowest: float
) -> Iterator[float]:
    """Yield the mean loss over the training examples after each round, until it is the lowest."""
    strategy_table, client = tables
    experiment = Experiment.from_dict(
        {
            "run": {"seed": seed, "rounds": rounds},
            "data": {"dataset": "digits", "clients": CLIENTS, "train_examples": EXAMPLES},
            "model": MODELS[model],
            "client": {"batch_size": 20, **client},
            "strategy": strategy_table,
        }
    )
    federation = prepare(experiment)
    strategy: Strategy = federation.strategy
    seed_everything(seed)
    clients = LocalClients(federation)
    dataset = Dataset(federation.spec.dataset)
    network = federation.spec.build_model(dataset)
    server = federation.spec.arrays_of(network)
    chosen = np.concatenate([federation.partition.indices(i) for i in range(CLIENTS)])
    arrays = federation.initial_arrays
    for number in range(1, rounds + 1):
        asked = strategy.configure_train(number, arrays, ConfigRecord(), cast(Grid, clients))
        after, _ = strategy.aggregate_train(number, clients.send_and_receive(asked))
        assert after is not None
        arrays = after
        if not all(np.isfinite(array.numpy()).all() for array in arrays.values()):
            return
        server.load(arrays)
        loss = float(evaluate(network, dataset, dataset.train, chosen)["loss"])
        yield loss
        if loss <= lowest:
            return


def _cell(found: list[list[list[float]]], rates: tuple[float, ...], target: float) -> str:
    """Return the mean rounds to the target with the best rate, and that rate."""
    best = (float("inf"), 0.0)
    for rate, runs in zip(rates, found, strict=True):
        firsts = [next((i for i, v in enumerate(run, 1) if v <= target), None) for run in runs]
        if all(first is not None for first in firsts):
            best = min(best, (float(np.mean([float(f) for f in firsts if f is not None])), rate))
    if best[0] == float("inf"):
        return "not reached"
    return f"{best[0]:.1f}" + ("" if len(rates) == 1 else f" (rate {best[1]:g})")


if __name__ == "__main__":
    main()
