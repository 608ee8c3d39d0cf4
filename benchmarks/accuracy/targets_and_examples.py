"""Accuracy and calibration with soft targets (PS-KD), and without the easiest examples.

``python -m benchmarks.accuracy.targets_and_examples --out FILE`` runs what is not in FILE yet, and
``python -m benchmarks.accuracy.targets_and_examples --table FILE`` prints the tables of
docs/results/objectives.md. A trial is a method and a seed; figures are those after the last round.
"""

from __future__ import annotations

import argparse
import json
from typing import Any

from atoll import Experiment
from atoll.platform.runs.federation import prepare
from benchmarks.accuracy.in_process import quiet_process, strategy_rounds
from benchmarks.accuracy.recorded import add_trial_options, commit, mean_and_range, run_missing

SEEDS = (0, 1, 2)
CLIENTS, ROUNDS, TESTED, SCORED = 5, 30, 2000, 5
KEY = ("part", "method", "seed")
Tables = dict[str, Any]


def _without(score: str, over: str = "client") -> Tables:
    """Return the tables of a run without the 30 % of examples that have the lowest scores."""
    selection = {"score": score, "drop": 0.3, "score_rounds": SCORED, "over": over}
    name = "DataDiet" if over == "federation" else "FedAvg"
    return {"client": {"selection": selection}, "strategy": {"name": name}}


def _taught_by(teacher: str) -> Tables:
    return {"client": {"objective": [{"name": "ps-kd", "teacher": teacher}]}}


# What an experiment has beside the common tables.
PARTS: dict[str, dict[str, Tables]] = {
    "soft targets": {
        "FedAvg": {},
        "PS-KD, the server's last model": _taught_by("server"),
        "PS-KD, the client's last model": _taught_by("local"),
    },
    "fewer examples": {
        "all examples": {},
        "without 30 % at random": _without("random"),
        "without the 30 % of lowest EL2N of each client": _without("el2n"),
        "without the 30 % of lowest EL2N of the federation": _without("el2n", "federation"),
        "without the 30 % of lowest GraNd of each client": _without("grand"),
        "without the 30 % of lowest GraNd of the federation": _without("grand", "federation"),
    },
}


def main() -> None:
    """Run trials, or print the tables."""
    parser = argparse.ArgumentParser(description="Soft targets, and fewer examples.")
    parser.add_argument("--parts", nargs="+", choices=list(PARTS), default=list(PARTS))
    parser.add_argument("--methods", nargs="+", help="by default all of each part")
    add_trial_options(parser, SEEDS)
    given = parser.parse_args()
    if given.table is not None:
        print_tables(json.loads(given.table.read_text()))
        return
    quiet_process()
    keys = [
        (part, method, seed)
        for seed in given.seeds
        for part in given.parts
        for method in PARTS[part]
        if given.methods is None or method in given.methods
    ]
    run_missing(keys, KEY, figures_of, given.out, given.seconds)


def figures_of(part: str, method: str, seed: int) -> dict[str, Any]:
    """Run a trial, and return what the last round comes to."""
    tables = PARTS[part][method]
    experiment = Experiment.from_dict(
        {
            "run": {"seed": seed, "rounds": ROUNDS},
            "data": {
                "dataset": "fashion-mnist",
                "clients": CLIENTS,
                "train_examples": 1000,
                "test_examples": TESTED,
            },
            "model": {"name": "mlp"},
            "strategy": tables.get("strategy", {"name": "FedAvg"}),
            "client": {
                "learning_rate": 0.1,
                "epochs": 2,
                "batch_size": 20,
                **tables.get("client", {}),
            },
        }
    )
    *_, last = strategy_rounds(prepare(experiment), ROUNDS, TESTED)
    return {
        "accuracy": last.accuracy,
        "calibration error": last.calibration_error,
        "commit": commit(),
    }


def print_tables(found: list[dict[str, Any]]) -> None:
    """Print a table a part: mean and range over the seeds."""
    print(f"commit {', '.join(sorted({trial['commit'] for trial in found}))}")
    for part, methods in PARTS.items():
        print(f"\n{part}\n\n| method | accuracy | calibration error | seeds |\n|---|---|---|---|")
        for method in methods:
            rows = [t for t in found if (t["part"], t["method"]) == (part, method)]
            if rows:
                cells = [
                    mean_and_range([t[name] for t in rows])
                    for name in ("accuracy", "calibration error")
                ]
                print(f"| {method} | {' | '.join(cells)} | {len(rows)} |")


if __name__ == "__main__":
    main()
