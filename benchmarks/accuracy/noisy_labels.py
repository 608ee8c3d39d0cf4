"""Accuracy under wrong labels: the last round and the best, with the same trials for each method.

``python -m benchmarks.accuracy.noisy_labels --out FILE`` runs what is not in FILE yet, and ``python
-m benchmarks.accuracy.noisy_labels --table FILE`` prints the table of docs/results/objectives.md. A
trial is a kind of noise, its rate, a method and a seed. Labels of the test examples are right.

- last: the server's accuracy after the last round.
- best: the highest accuracy after any round. It is chosen on the test examples, so it says how much
  a run lost to its wrong labels, and is no estimate of accuracy.
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Iterator
from typing import Any

from atoll import Experiment
from atoll.platform.runs.federation import prepare
from benchmarks.accuracy.in_process import quiet_process, rounds_of
from benchmarks.accuracy.recorded import (
    add_trial_options,
    date_and_commit,
    mean_and_range,
    run_missing,
)

SEEDS = (0, 1, 2)
NOISES = (("symmetric", 0.2), ("symmetric", 0.4), ("pair-flip", 0.2), ("pair-flip", 0.4))
CLIENTS, ROUNDS, TESTED = 5, 60, 2000
KEY = ("kind", "rate", "method", "seed")
# What [[client.objective]] has; a method that must know the noise's rate is told it.
METHODS: dict[str, list[dict[str, Any]]] = {
    "cross-entropy": [],
    "ELR": [{"name": "elr"}],
    "ELR of CIFAR-100": [{"name": "elr", "weight": 7.0, "beta": 0.9}],
    "nested dropout": [{"name": "nested-dropout"}],
    "co-teaching": [{"name": "co-teaching"}],
}


def main() -> None:
    """Run trials, or print the table."""
    parser = argparse.ArgumentParser(description="Methods against wrong labels.")
    parser.add_argument("--methods", nargs="+", choices=list(METHODS), default=list(METHODS))
    add_trial_options(parser, SEEDS)
    given = parser.parse_args()
    if given.table is not None:
        print_table(json.loads(given.table.read_text()))
        return
    quiet_process()
    run_missing(trials(given.methods, given.seeds), KEY, figures_of, given.out, given.seconds)


def figures_of(*key: Any) -> dict[str, Any]:
    """Run a trial, and return its accuracies."""
    accuracies = [done.accuracy for done in rounds_of(prepare(experiment_of(*key)), ROUNDS, TESTED)]
    return {"last": accuracies[-1], "best": max(accuracies), "run": date_and_commit()}


def trials(methods: list[str], seeds: list[int]) -> Iterator[tuple[str, float, str, int]]:
    """Yield every trial, a whole seed at a time."""
    for seed in seeds:
        for kind, rate in NOISES:
            for method in methods:
                yield kind, rate, method, seed


def experiment_of(kind: str, rate: float, method: str, seed: int) -> Experiment:
    """Return a trial's experiment."""
    terms = [dict(term) for term in METHODS[method]]
    for term in terms:
        if term["name"] == "co-teaching":
            term["forget_rate"] = rate
    return Experiment.from_dict(
        {
            "run": {"seed": seed, "rounds": ROUNDS},
            "data": {
                "dataset": "fashion-mnist",
                "clients": CLIENTS,
                "train_examples": 1000,
                "test_examples": TESTED,
                "label_noise": {"kind": kind, "rate": rate},
            },
            "model": {"name": "mlp"},
            "client": {"learning_rate": 0.1, "epochs": 2, "batch_size": 20, "objective": terms},
        }
    )


def print_table(found: list[dict[str, Any]]) -> None:
    """Print the table: a row a noise and method, mean and range over the seeds."""
    print(", ".join(sorted({trial["run"] for trial in found})))
    print("\n| noise | method | last | best | best minus last | seeds |")
    print("|---|---|---|---|---|---|")
    for kind, rate in NOISES:
        for method in METHODS:
            rows = [t for t in found if (t["kind"], t["rate"], t["method"]) == (kind, rate, method)]
            if rows:
                lost = statistics.fmean(t["best"] - t["last"] for t in rows)
                cells = [mean_and_range([t[name] for t in rows]) for name in ("last", "best")]
                noise = f"{kind}, {rate:.0%}"
                print(f"| {noise} | {method} | {' | '.join(cells)} | {lost:.3f} | {len(rows)} |")


if __name__ == "__main__":
    main()
