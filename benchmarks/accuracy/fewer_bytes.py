"""Accuracy against the bytes that a client sends: coded updates, top-k, BackSlash, masks and LoRA.

``python -m benchmarks.accuracy.fewer_bytes --out FILE`` runs what is not in FILE yet, and
``--table FILE`` prints the tables of docs/results/objectives.md. A trial is a task, a method and a
seed; accuracy is that after the last round. Bytes are what a run's ledger has in ``bytes_up``: the
code's, where uploads are coded.

- perceptron: Fashion-MNIST by a perceptron that starts from random weights.
- MiniLM: the sentiment of texts of four sources, a client a source, by a pre-trained network.
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from atoll import Experiment
from atoll.platform.runs.federation import prepare
from benchmarks.accuracy.in_process import quiet_process, rounds_of
from benchmarks.accuracy.recorded import add_trial_options, commit, mean_and_range, run_missing

SEEDS = (0, 1, 2)
KEY = ("task", "method", "seed")
Tables = dict[str, Any]
CODING = {"name": "entropy-coding"}
FINE_CODING = {"name": "entropy-coding", "step": 1e-4}
TOP = {"name": "top-k", "pruned": 0.9}
ADAM = {"optimizer": "adam", "learning_rate": 0.001}
LORA = {"adapters": {"rank": 8, "alpha": 16.0, "targets": ["query", "value"]}}
LORA_RATE = {"learning_rate": 0.002}


@dataclass(frozen=True)
class Task:
    """What the methods of a table have in common.

    Attributes
    ----------
    rounds : int
        Rounds of a trial.
    tested : int
        The server tests on at most so many examples of each domain, after the last round.
    data, model, client : dict
        Tables of the experiment.
    methods : dict
        By name, what a method has beside them in [model] and [client]; the first is the one that
        bytes are compared with.
    """

    rounds: int
    tested: int
    data: Tables
    model: Tables
    client: Tables
    methods: dict[str, tuple[Tables, Tables]]


TASKS = {
    "perceptron": Task(
        20,
        2000,
        {"dataset": "fashion-mnist", "clients": 5, "train_examples": 2000, "test_examples": 2000},
        {"name": "mlp"},
        {"learning_rate": 0.1, "epochs": 2, "batch_size": 20},
        {
            "FedAvg": ({}, {}),
            "coded updates": ({}, {"mods": [CODING]}),
            "top 10 %, coded": ({}, {"mods": [CODING, TOP]}),
            "coded models": ({}, {"mods": [{**CODING, "of": "model"}]}),
            "BackSlash, coded models": (
                {},
                {
                    "mods": [{**CODING, "of": "model"}],
                    "objective": [{"name": "backslash", "weight": 100.0, "shape": 1.0}],
                },
            ),
            "masks, one bit each": ({"masks": {}}, {**ADAM, "mods": ["mask-bits"]}),
            "masks with gradient dropout": (
                {"masks": {}},
                {**ADAM, "mods": ["mask-bits"], "objective": [{"name": "r-amt"}]},
            ),
            "LoRA of random weights, rank 8": ({"adapters": {"rank": 8}}, {}),
        },
    ),
    "MiniLM": Task(
        8,
        250,
        {"dataset": "sentiment", "clients": 4, "partition": {"name": "domain"}},
        {"name": "minilm"},
        {"optimizer": "adam", "learning_rate": 0.0002, "batch_size": 16, "steps": 5},
        {
            "whole model": ({}, {}),
            "whole model, top 10 %, coded": ({}, {"mods": [FINE_CODING, TOP]}),
            "LoRA and head": (LORA, LORA_RATE),
            "LoRA and head, coded": (LORA, {**LORA_RATE, "mods": [FINE_CODING]}),
        },
    ),
}


def main() -> None:
    """Run trials, or print the tables."""
    parser = argparse.ArgumentParser(description="Accuracy against bytes.")
    parser.add_argument("--tasks", nargs="+", choices=list(TASKS), default=list(TASKS))
    parser.add_argument("--methods", nargs="+", help="by default all of each task")
    add_trial_options(parser, SEEDS)
    given = parser.parse_args()
    if given.table is not None:
        print_tables(json.loads(given.table.read_text()))
        return
    quiet_process()
    keys = trials(given.tasks, given.methods, given.seeds)
    run_missing(keys, KEY, figures_of, given.out, given.seconds)


def trials(
    tasks: list[str], methods: list[str] | None, seeds: list[int]
) -> Iterator[tuple[str, str, int]]:
    """Yield every trial, a whole seed at a time."""
    for seed in seeds:
        for task in tasks:
            for method in TASKS[task].methods:
                if methods is None or method in methods:
                    yield task, method, seed


def experiment_of(name: str, method: str, seed: int) -> Experiment:
    """Return a trial's experiment."""
    task = TASKS[name]
    model, client = task.methods[method]
    return Experiment.from_dict(
        {
            "run": {"seed": seed, "rounds": task.rounds},
            "data": task.data,
            "model": {**task.model, **model},
            "client": {**task.client, **client},
        }
    )


def figures_of(name: str, method: str, seed: int) -> dict[str, Any]:
    """Run a trial, and return its last accuracy and a client's mean bytes up a round."""
    task, federation = TASKS[name], prepare(experiment_of(name, method, seed))
    done = list(rounds_of(federation, task.rounds, task.tested, evaluate_every=task.rounds))
    return {
        "accuracy": done[-1].accuracy,
        "bytes": statistics.fmean(one.bytes_up for one in done),
        "commit": commit(),
    }


def print_tables(found: list[dict[str, Any]]) -> None:
    """Print a table a task: mean and range over the seeds."""
    print(f"commit {', '.join(sorted({trial['commit'] for trial in found}))}")
    for name, task in TASKS.items():
        rows = [trial for trial in found if trial["task"] == name]
        if not rows:
            continue
        size = {
            method: statistics.fmean(same)
            for method in task.methods
            if (same := [t["bytes"] for t in rows if t["method"] == method])
        }
        plain = next(iter(size))
        print(
            f"\n{name}\n\n| method | accuracy | kB up, a client and round | of {plain}'s | seeds |"
        )
        print("|---|---|---|---|---|")
        for method, bytes_up in size.items():
            last = [t["accuracy"] for t in rows if t["method"] == method]
            cells = f"{mean_and_range(last)} | {bytes_up / 1e3:.1f} | {bytes_up / size[plain]:.1%}"
            print(f"| {method} | {cells} | {len(last)} |")


if __name__ == "__main__":
    main()
