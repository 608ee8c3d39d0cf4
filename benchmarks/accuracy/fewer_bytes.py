"""Accuracy against the bytes that a client sends: coded updates, top-k, BackSlash, masks and LoRA.

``python -m benchmarks.accuracy.fewer_bytes`` prints the table of docs/results/objectives.md. Bytes
are what a run's ledger has in ``bytes_up``: the code's, where uploads are coded.
"""

from __future__ import annotations

import argparse
import statistics
from typing import Any

from atoll import Experiment
from atoll.platform.runs.federation import prepare
from benchmarks.accuracy.in_process import quiet_process, rounds_of
from benchmarks.accuracy.recorded import date_and_commit, mean_and_range

SEEDS = (0, 1, 2)
CLIENTS, ROUNDS, TESTED = 5, 20, 2000
CODING = {"name": "entropy-coding"}
ADAM = {"optimizer": "adam", "learning_rate": 0.001}
# What an experiment has beside the data: [model] and [client].
METHODS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "FedAvg": ({}, {}),
    "coded updates": ({}, {"mods": [CODING]}),
    "top 10 %, coded": ({}, {"mods": [CODING, {"name": "top-k", "pruned": 0.9}]}),
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
}


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description="Accuracy against bytes.")
    parser.add_argument("--methods", nargs="+", choices=list(METHODS), default=list(METHODS))
    parser.add_argument("--seeds", nargs="+", type=int, default=list(SEEDS))
    given = parser.parse_args()
    quiet_process()
    print(date_and_commit())
    print("\n| method | accuracy | kB up, a client and round | of FedAvg's |\n|---|---|---|---|")
    plain = None
    for method in given.methods:
        done = [list(rounds_of(_federation(method, s), ROUNDS, TESTED)) for s in given.seeds]
        last = [rounds[-1].accuracy for rounds in done]
        size = statistics.fmean(r.bytes_up for rounds in done for r in rounds)
        plain = plain or size
        print(
            f"| {method} | {mean_and_range(last)} | {size / 1e3:.1f} | {size / plain:.1%} |",
            flush=True,
        )


def _federation(method: str, seed: int) -> Any:
    model, client = METHODS[method]
    experiment = Experiment.from_dict(
        {
            "run": {"seed": seed, "rounds": ROUNDS},
            "data": {
                "dataset": "fashion-mnist",
                "clients": CLIENTS,
                "train_examples": 2000,
                "test_examples": TESTED,
            },
            "model": {"name": "mlp", **model},
            "client": {"learning_rate": 0.1, "epochs": 2, "batch_size": 20, **client},
        }
    )
    return prepare(experiment)


if __name__ == "__main__":
    main()
