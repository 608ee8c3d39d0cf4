"""Personal accuracy of personalisation methods, with the same trials for each.

``python -m benchmarks.accuracy.personalisation --out FILE`` runs what is not in FILE yet, and
``python -m benchmarks.accuracy.personalisation --table FILE`` prints
docs/results/personalisation.md's tables. A trial is a method, a learning rate and a seed. A
method's row is its learning rate with the best mean over the seeds; each method has the same ones,
and its other settings are the defaults.

- own: each client's own model on its own held-out examples, in the last round; mean over clients.
- gain: own minus the global model of the same run on the same examples, mean over clients.
- worst tenth: the mean over the tenth of the clients, rounded up, whose own model is the worst.

A trial calls the ClientApp in this process, for every client in every round, and averages as FedAvg
does: that gives the arrays of ``atoll run`` at a fraction of what starting it costs.

FedAvg's own model is the global one. "alone" is Ditto without its penalty: each client's own model
sees no other client.
"""

from __future__ import annotations

import argparse
import datetime
import json
import math
import statistics
from collections import defaultdict
from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from atoll import Experiment
from atoll.platform.callbacks.worst_tenth import worst_tenth
from atoll.platform.runs.federation import Federation, prepare
from atoll.platform.runs.natural_clients import with_natural_clients
from benchmarks.accuracy.in_process import LocalClients, mean_of, quiet_process
from benchmarks.accuracy.recorded import add_trial_options, commit, mean_and_range, run_missing

SEEDS = (0, 1, 2)
RATES = (0.05, 0.02, 0.1)
KEY = ("data", "method", "rate", "seed")
Tables = dict[str, Any]
DATA: dict[str, Tables] = {
    "digits": {
        "run": {"rounds": 20},
        "data": {
            "dataset": "digits",
            "clients": 10,
            "partition": {"name": "dirichlet", "alpha": 0.1, "min_partition_size": 20},
        },
        "model": {"name": "benchmarks.accuracy.personalisation:perceptron"},
        "client": {"batch_size": 16},
    },
    "heart-disease": {
        "run": {"rounds": 40},
        "data": {"dataset": "heart-disease"},
        "model": {"name": "table-mlp"},
        "client": {"batch_size": 16},
    },
    "emoji": {
        "run": {"rounds": 15},
        "data": {"dataset": "emoji", "clients": 4, "partition": {"name": "domain"}},
        "model": {"name": "benchmarks.accuracy.personalisation:perceptron"},
        "client": {"batch_size": 32},
    },
}
# What [client] has beside the data set's settings.
METHODS: dict[str, Tables] = {
    "FedAvg": {},
    "alone": {"personal": {"name": "ditto", "penalty": 0.0}},
    "FedAvg, fine-tuned": {"personal": {"name": "fine-tuning", "epochs": 5}},
    "FedBN": {"local": "norm"},
    "FedPer": {"local": "head"},
    "FedRep": {"local": "head", "personal": {"name": "fedrep", "head_epochs": 5}},
    "LG-FedAvg": {"local": "body"},
    "Ditto": {"personal": {"name": "ditto"}},
    "pFedMe": {"personal": {"name": "pfedme"}},
    "APFL": {"personal": {"name": "apfl"}},
}
# Models without layers that normalise.
WITHOUT = {("heart-disease", "FedBN")}
COLUMNS = ("own", "gain", "worst tenth")


class Normalised(nn.BatchNorm1d):
    """Batch normalisation that takes a batch of one example by the running statistics."""

    def forward(self, features: Tensor) -> Tensor:
        """Return the normalised features, shape (n, d)."""
        if self.training and len(features) == 1:
            mean, variance = self.running_mean, self.running_var
            return F.batch_norm(features, mean, variance, self.weight, self.bias, eps=self.eps)
        return super().forward(features)


def perceptron(image_shape: tuple[int, int, int], classes: int) -> nn.Module:
    """Return a perceptron with batch normalisation, which two cores can train many times."""
    inputs = math.prod(image_shape)
    layers = (nn.Linear(inputs, 64), Normalised(64), nn.ReLU(), nn.Linear(64, classes))
    return nn.Sequential(nn.Flatten(), *layers)


def main() -> None:
    parser = argparse.ArgumentParser(description="Personalisation methods.")
    parser.add_argument("--data", nargs="+", choices=list(DATA), default=list(DATA))
    parser.add_argument("--methods", nargs="+", choices=list(METHODS), default=list(METHODS))
    parser.add_argument("--rates", nargs="+", type=float, choices=RATES, default=list(RATES))
    add_trial_options(parser, SEEDS, seconds=570.0)
    given = parser.parse_args()
    if given.table is not None:
        print_tables(json.loads(given.table.read_text()))
        return
    quiet_process()
    keys = trials(given.data, given.methods, given.rates, given.seeds)
    run_missing(keys, KEY, figures_of, given.out, given.seconds)


def trials(
    names: list[str], methods: list[str], rates: list[float], seeds: list[int]
) -> Iterator[tuple[str, str, float, int]]:
    """Yield every trial, a whole seed at a time."""
    for seed in seeds:
        for data in names:
            for rate in rates:
                for method in methods:
                    if (data, method) not in WITHOUT:
                        yield data, method, rate, seed


def experiment_of(data: str, method: str, rate: float, seed: int) -> Experiment:
    """Return a trial's experiment; clients' own models are evaluated after the last round."""
    tables = DATA[data]
    rounds = tables["run"]["rounds"]
    client = {**tables["client"], **METHODS[method], "learning_rate": rate, "epochs": 1}
    if "head_epochs" in client.get("personal", {}):
        del client["epochs"]
    if "local" in client or "personal" in client:
        client["personal_every"] = rounds
    experiment = Experiment.from_dict(
        {
            "run": {"seed": seed, "rounds": rounds},
            "data": {**tables["data"], "client_test_fraction": 0.3},
            "model": tables["model"],
            "client": client,
        }
    )
    return with_natural_clients(experiment)


def figures_of(*key: Any) -> dict[str, Any]:
    """Run a trial, and return what clients' own models come to in the last round."""
    experiment = experiment_of(*key)
    rows = evaluations_of(prepare(experiment), experiment.run.rounds)
    shared = [row["accuracy"] for row in rows]
    own = [row.get("personal-accuracy", row["accuracy"]) for row in rows]
    return {
        "clients": len(rows),
        "own": statistics.fmean(own),
        "gain": statistics.fmean(own) - statistics.fmean(shared),
        "worst tenth": worst_tenth(torch.tensor(own).double().numpy(), 1.0),
        "commit": commit(),
    }


def evaluations_of(federation: Federation, rounds: int) -> list[dict[str, Any]]:
    """Return what each client answers to an evaluation after the last round."""
    clients, arrays = LocalClients(federation), federation.initial_arrays
    for server_round in range(1, rounds + 1):
        arrays = mean_of(clients.ask("train", server_round, arrays))
    return [dict(c.metric_records["metrics"]) for c in clients.ask("evaluate", rounds, arrays)]


def print_tables(found: list[dict[str, Any]]) -> None:
    """Print a table a data set: each method at its better learning rate, mean and range."""
    commits = sorted({trial["commit"] for trial in found})
    print(f"{datetime.datetime.now(datetime.UTC):%Y-%m-%d}, commit {', '.join(commits)}")
    for data in DATA:
        rows = [trial for trial in found if trial["data"] == data]
        if not rows:
            continue
        print(f"\n{data}: {rows[0]['clients']} clients, {DATA[data]['run']['rounds']} rounds\n")
        print("| method | learning rate | " + " | ".join(COLUMNS) + " | seeds |")
        print("|---|---|" + "---|" * (len(COLUMNS) + 1))
        for method in METHODS:
            by_rate: dict[float, list[dict[str, Any]]] = defaultdict(list)
            for trial in rows:
                if trial["method"] == method:
                    by_rate[trial["rate"]].append(trial)
            if by_rate:
                rate = max(by_rate, key=lambda r: statistics.fmean(t["own"] for t in by_rate[r]))
                cells = [
                    mean_and_range([trial[name] for trial in by_rate[rate]]) for name in COLUMNS
                ]
                print(f"| {method} | {rate:g} | {' | '.join(cells)} | {len(by_rate[rate])} |")


if __name__ == "__main__":
    main()
