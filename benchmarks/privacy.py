"""Membership of clients' examples, and audits of epsilon, with and without defenses.

``python -m benchmarks.privacy`` runs small federations that overfit with seeds 0, 1 and 2 and
prints the tables of docs/results/privacy.md.

- membership: 10 clients with 40 digits each train a perceptron for many passes; every update is
  captured. Scores of all candidates of all seeds are put together.
- audits: 200 clients of which 150 are canaries, at several budgets.

``--only membership`` or ``--only audits`` runs one of the two; ``--seeds 0`` one seed.
"""

from __future__ import annotations

import argparse
import logging
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from atoll import Experiment, MembershipRun, run, run_audit, run_membership
from atoll.platform.reports.tables import Cell, Table, as_markdown
from benchmarks.recorded import date_and_commit

ROOT = Path(__file__).resolve().parents[1]
SEEDS = (0, 1, 2)
ROUNDS = 4
DELTA = 1e-3
# By name, the sections that differ.
DEFENSES: dict[str, dict[str, Any]] = {
    "none": {},
    "clipping to 0.1": {"client": {"mods": [{"name": "clipping", "bound": 0.1}]}},
    "examples, epsilon = 8": {"privacy": {"epsilon": 8.0, "delta": DELTA, "level": "example"}},
    "local, epsilon = 8 a round": {
        "client": {
            "mods": [{"name": "local-dp", "clipping_norm": 0.5, "epsilon": 8.0, "delta": DELTA}]
        }
    },
}
BUDGETS = (2.0, 8.0, 30.0)


def overfitted(seed: int, changes: dict[str, Any]) -> Experiment:
    """Return an experiment whose clients see few examples often."""
    tables: dict[str, Any] = {
        "run": {"name": "membership", "seed": seed, "rounds": ROUNDS, "evaluate_every": ROUNDS},
        "data": {"dataset": "digits", "clients": 10, "examples_per_client": 40},
        "model": {"name": "mlp", "hidden": [64]},
        "client": {"learning_rate": 0.1, "batch_size": 8, "epochs": 10},
        "strategy": {"name": "FedAvg", "fraction_train": 1.0, "fraction_evaluate": 0.0},
        "capture": {"nodes": "all", "rounds": list(range(1, ROUNDS + 1))},
        "ray": {"workers": 1},
        "log": {"progress": False},
    }
    for section, keys in changes.items():
        tables[section] = {**tables.get(section, {}), **keys}
    return Experiment.from_dict(tables)


def audited(seed: int, epsilon: float) -> Experiment:
    """Return an experiment with a budget and canaries."""
    return Experiment.from_dict(
        {
            "run": {"name": "audit", "seed": seed, "rounds": 5, "evaluate_every": 5},
            "data": {"dataset": "digits", "clients": 200},
            "model": {"name": "mlp", "hidden": [64]},
            "client": {"learning_rate": 0.1, "batch_size": 8},
            "strategy": {"name": "FedAvg", "fraction_train": 1.0, "fraction_evaluate": 0.0},
            "privacy": {"epsilon": epsilon, "delta": DELTA, "sampling": "poisson"},
            "audit": {"canaries": 150},
            "ray": {"workers": 1},
            "log": {"progress": False},
        }
    )


def membership_table(seeds: Sequence[int], folder: Path) -> Table:
    """Return the figures of each defense and method, over the candidates of all seeds."""
    rows: list[list[Cell]] = []
    header = ["defense", "accuracy", "method"]
    for number, (name, changes) in enumerate(DEFENSES.items()):
        found, accuracies = [], []
        for seed in seeds:
            done = run(overfitted(seed, changes), out=folder / f"membership-{number}-{seed}")
            accuracies.append(done.metrics["server_accuracy"])
            found.append(run_membership(done.directory, candidates=40, seed=seed))
        pooled = MembershipRun(folder, found[0].threat, [row for f in found for row in f.rows])
        for method in pooled.methods:
            figures = pooled.figures(method)
            header = ["defense", "accuracy", "method", *figures]
            shown = [f"{f.value:.3f} [{f.low:.3f}, {f.high:.3f}]" for f in figures.values()]
            rows.append([name, f"{sum(accuracies) / len(accuracies):.3f}", method, *shown])
    return Table("membership", header, rows)


def audit_rows(seeds: Sequence[int], folder: Path) -> Iterator[list[Cell]]:
    """Yield a row a budget and seed."""
    for epsilon in BUDGETS:
        for seed in seeds:
            found = run_audit(audited(seed, epsilon), out=folder / f"audit-{epsilon:g}-{seed}")
            yield [
                f"{epsilon:g}",
                str(seed),
                f"{found.claim:.3f}",
                f"{found.bound:.3f}",
                f"{found.estimate:.3f}",
                f"{found.right} of {found.guesses}",
                "refuted" if found.is_refuted else "consistent",
            ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=SEEDS)
    parser.add_argument("--only", choices=("membership", "audits"))
    given = parser.parse_args()
    logging.getLogger("atoll").setLevel(logging.ERROR)
    print(f"{date_and_commit()}, seeds {list(given.seeds)}\n", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        if given.only != "audits":
            print(as_markdown(membership_table(given.seeds, Path(folder))), flush=True)
        if given.only != "membership":
            header = ["budget", "seed", "claim", "bound", "one-shot", "right", "verdict"]
            rows = list(audit_rows(given.seeds, Path(folder)))
            print(as_markdown(Table("audits", header, rows)), flush=True)


if __name__ == "__main__":
    main()
