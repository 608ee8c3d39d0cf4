"""DP-FTRL's tree and fresh noise at the same epsilons, on the quickstart's data.

``python -m benchmarks.privacy.server_noise --out FILE`` runs federations of MNIST with a linear
model, all clients in this process, adds each trial to FILE as it ends, and prints the table: the
accuracy by budget and mechanism. 1,000 clients of 60 images and 20 a round, so that an epoch has 50
rounds; all mechanisms have the same clients' training and the same clipping norm.

- DP-FedAvg, fixed: fresh noise; cohorts of one size without replacement, the default.
- DP-FedAvg, epochs: fresh noise; each client once an epoch, as DP-FTRL has it.
- DP-FedAvg, Poisson: fresh noise; clients are drawn at random, for which the accountant claims
  amplification: the server must be able to draw any of them in any round.
- DP-FTRL: the tree's noise, each client once an epoch.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Mapping, Sequence
from itertools import product
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
import torch
from flwr.app import ConfigRecord

from atoll.clients import evaluate
from atoll.clients.data.files.dataset import Dataset
from atoll.flower import assume_identity
from atoll.platform.config.experiment import Experiment
from atoll.platform.runs.federation import prepare
from atoll.strategies import CentralDP
from benchmarks.accuracy.in_process import LocalClients
from benchmarks.accuracy.recorded import date_and_commit, run_missing

MECHANISMS: Mapping[str, Mapping[str, str]] = {
    "DP-FedAvg, fixed": {"sampling": "fixed", "mechanism": "gaussian"},
    "DP-FedAvg, epochs": {"sampling": "epochs", "mechanism": "gaussian"},
    "DP-FedAvg, Poisson": {"sampling": "poisson", "mechanism": "gaussian"},
    "DP-FTRL": {"sampling": "epochs", "mechanism": "tree"},
}
NAMES = ("epsilon", "mechanism", "rounds", "seed")
DELTA = 1e-4


def experiment(epsilon: float, mechanism: str, rounds: int, seed: int) -> Experiment:
    """Return the experiment of one trial."""
    return Experiment.from_dict(
        {
            "run": {"name": "server-noise", "seed": seed, "rounds": rounds},
            "data": {"dataset": "mnist", "clients": 1000},
            "model": {"name": "linear"},
            "client": {"learning_rate": 0.05, "momentum": 0.9, "batch_size": 32},
            "strategy": {"name": "FedAvg", "fraction_train": 0.02, "fraction_evaluate": 0.0},
            "privacy": {
                "epsilon": epsilon,
                "delta": DELTA,
                "clipping_norm": 0.1,
                **MECHANISMS[mechanism],
            },
        }
    )


def figures_of(epsilon: float, mechanism: str, rounds: int, seed: int) -> dict[str, Any]:
    """Return the accuracy after the last round, the noise and the epsilon that was spent."""
    federation = prepare(experiment(epsilon, mechanism, rounds, seed))
    strategy, grid = federation.strategy, LocalClients(federation)
    assert isinstance(strategy, CentralDP)
    arrays = federation.initial_arrays
    for server_round in range(1, rounds + 1):
        config = ConfigRecord({"server-round": server_round})
        messages = strategy.configure_train(server_round, arrays, config, grid)  # type: ignore[arg-type]
        mean, _ = strategy.aggregate_train(server_round, grid.send_and_receive(messages))
        assert mean is not None
        arrays = mean
    dataset = Dataset(federation.spec.dataset)
    model = federation.spec.build_model(dataset)
    federation.spec.arrays_of(model).load(arrays)
    chosen = np.arange(len(dataset.test.labels))
    accuracy = float(evaluate(model, dataset, dataset.test, chosen)["accuracy"])
    return {
        "accuracy": accuracy,
        "noise": strategy.noise_multiplier,
        "spent": strategy.epsilon(rounds),
    }


def table(found: Sequence[Mapping[str, Any]]) -> None:
    """Print the accuracies by budget, the mean over the seeds and its range."""
    print(f"| epsilon | {' | '.join(MECHANISMS)} |\n|{'---|' * (1 + len(MECHANISMS))}")
    for epsilon in sorted({trial["epsilon"] for trial in found}):
        cells = []
        for mechanism in MECHANISMS:
            of = [t for t in found if (t["epsilon"], t["mechanism"]) == (epsilon, mechanism)]
            values = [trial["accuracy"] for trial in of]
            cells.append(
                f"{fmean(values):.3f} ({min(values):.3f} to {max(values):.3f}; "
                f"noise {of[0]['noise']:.2f})"
                if of
                else ""
            )
        print(f"| {epsilon:g} | {' | '.join(cells)} |")
    print(date_and_commit())


def trials(budgets: Sequence[float], rounds: int, seeds: int) -> Iterator[tuple[Any, ...]]:
    """Yield the trials, a first seed of all before the second."""
    for seed, epsilon, mechanism in product(range(seeds), budgets, MECHANISMS):
        yield epsilon, mechanism, rounds, seed


def main() -> None:
    """Run what is missing, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--budgets", type=float, nargs="+", default=[1.0, 2.0, 4.0, 8.0, 16.0])
    parser.add_argument("--rounds", type=int, default=50)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=500.0)
    given = parser.parse_args()
    torch.set_num_threads(1)
    assume_identity()
    keys = trials(given.budgets, given.rounds, given.seeds)
    run_missing(keys, NAMES, figures_of, given.out, given.seconds)
    table(json.loads(given.out.read_text()))


if __name__ == "__main__":
    main()
