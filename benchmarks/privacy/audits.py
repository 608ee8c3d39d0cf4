"""Membership of clients' examples, audits of epsilon and noise of the server, in small federations.

``python -m benchmarks.privacy.audits`` runs small federations with seeds 0, 1 and 2 and prints the
tables of docs/results/privacy.md.

- membership: 10 clients with 40 digits each train a perceptron for many passes; every update is
  captured. Scores of all candidates of all seeds are put together. LiRA and RMIA have 32 shadow
  federations a seed without defense, where they are stacked, and 8 with one.
- audits: 200 clients of which 150 are canaries, at several budgets.
- mechanisms: fresh noise and DP-FTRL's tree at the same budgets, on the quickstart's data and
  cohorts with 6,000 images and a linear model.

``--only NAME`` runs one of the three; ``--seeds 0`` one seed.
"""

from __future__ import annotations

import argparse
import logging
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

import ray

from atoll import Experiment, MembershipRun, ShadowSettings, run, run_audit, run_membership
from atoll.platform.cluster.connection import patient_start
from atoll.platform.reports.tables import Cell, Table, as_markdown
from atoll.platform.runs.federation import prepare
from benchmarks.accuracy.recorded import date_and_commit

SEEDS = (0, 1, 2)
ROUNDS = 2
DELTA = 1e-3
# By name, the sections that differ.
DEFENSES: dict[str, dict[str, Any]] = {
    "none": {},
    "clients, epsilon = 8": {
        "privacy": {"epsilon": 8.0, "delta": DELTA, "sampling": "poisson"},
    },
    "examples, epsilon = 8": {"privacy": {"epsilon": 8.0, "delta": DELTA, "level": "example"}},
}
# Shadow federations without a defense, and with one: these are run one at a time.
STACKED, ALONE = 32, 8
BUDGETS = (2.0, 8.0, 30.0)
MECHANISMS: dict[str, dict[str, Any]] = {
    "fresh noise, Poisson sampling": {"sampling": "poisson", "mechanism": "gaussian"},
    "fresh noise, epochs": {"sampling": "epochs", "mechanism": "gaussian"},
    "tree, epochs": {"sampling": "epochs", "mechanism": "tree"},
}
SERVER_BUDGETS = (8.0, 32.0)


def overfitted(seed: int, changes: dict[str, Any]) -> Experiment:
    """Return an experiment whose clients see few examples often."""
    tables: dict[str, Any] = {
        "run": {"name": "membership", "seed": seed, "rounds": ROUNDS, "evaluate_every": ROUNDS},
        "data": {"dataset": "digits", "clients": 10, "examples_per_client": 40},
        "model": {"name": "mlp", "hidden": [64]},
        "client": {"learning_rate": 0.1, "batch_size": 8, "epochs": 10},
        "strategy": {"name": "FedAvg", "fraction_train": 1.0, "fraction_evaluate": 0.0},
        "capture": {"nodes": "all", "rounds": list(range(1, ROUNDS + 1))},
        "ray": {"workers": 2},
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
            "ray": {"workers": 2},
            "log": {"progress": False},
        }
    )


def noisy(seed: int, epsilon: float, keys: dict[str, Any]) -> Experiment:
    """Return the quickstart at a smaller size, with a budget."""
    return Experiment.from_dict(
        {
            "run": {"name": "mechanism", "seed": seed, "rounds": 25, "evaluate_every": 25},
            "data": {"dataset": "mnist", "clients": 100, "train_examples": 6000},
            "model": {"name": "linear"},
            "client": {"learning_rate": 0.05, "momentum": 0.9, "batch_size": 32},
            "strategy": {"name": "FedAvg", "fraction_train": 0.2, "fraction_evaluate": 0.0},
            "privacy": {"epsilon": epsilon, "delta": DELTA, "clipping_norm": 0.5, **keys},
            "ray": {"workers": 2},
            "log": {"progress": False},
        }
    )


def membership_tables(seeds: Sequence[int], folder: Path) -> Iterator[Table]:
    """Yield the figures of each defense by method, over the candidates of all seeds."""
    for number, (name, changes) in enumerate(DEFENSES.items()):
        found, accuracies = [], []
        for seed in seeds:
            done = run(overfitted(seed, changes), out=folder / f"membership-{number}-{seed}")
            accuracies.append(done.metrics["server_accuracy"])
            settings = ShadowSettings(ALONE if changes else STACKED)
            found.append(
                run_membership(
                    done.directory,
                    attack=["lira", "rmia", "active"],
                    shadows=settings,
                    candidates=40,
                    seed=seed,
                )
            )
            print(f"{name}, seed {seed}", file=sys.stderr, flush=True)
        pooled = MembershipRun(folder, found[0].threat, [row for f in found for row in f.rows])
        rows: list[list[Cell]] = []
        for method in pooled.methods:
            figures = pooled.figures(method)
            shown = [f"{f.value:.3f} [{f.low:.3f}, {f.high:.3f}]" for f in figures.values()]
            rows.append([method, *shown])
        accuracy = f"accuracy {fmean(accuracies):.3f}"
        yield Table(f"{name}: {accuracy}", ["method", *figures], rows)


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


def mechanism_rows(seeds: Sequence[int], folder: Path) -> Iterator[list[Cell]]:
    """Yield a row a budget and mechanism: accuracies of the seeds, and the noise."""
    for epsilon in SERVER_BUDGETS:
        for place, (name, keys) in enumerate(MECHANISMS.items()):
            accuracies, noise = [], 0.0
            for seed in seeds:
                experiment = noisy(seed, epsilon, keys)
                done = run(experiment, out=folder / f"noise-{epsilon:g}-{place}-{seed}")
                accuracies.append(done.metrics["server_accuracy"])
                noise = prepare(experiment).strategy.noise_multiplier  # type: ignore[attr-defined]
            shown = ", ".join(f"{accuracy:.3f}" for accuracy in accuracies)
            yield [f"{epsilon:g}", name, f"{noise:.2f}", f"{fmean(accuracies):.3f}", shown]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=SEEDS)
    parser.add_argument("--only", choices=("membership", "audits", "mechanisms"))
    given = parser.parse_args()
    logging.getLogger("atoll").setLevel(logging.ERROR)
    print(f"{date_and_commit()}, seeds {list(given.seeds)}\n", flush=True)
    # One Ray for all runs.
    with patient_start():
        ray.init(num_cpus=2, include_dashboard=False, logging_level="ERROR", log_to_driver=False)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for part in (given.only,) if given.only else ("audits", "mechanisms", "membership"):
            if part == "membership":
                for table in membership_tables(given.seeds, folder):
                    print(f"{as_markdown(table)}\n", flush=True)
                continue
            if part == "audits":
                header = ["budget", "seed", "claim", "bound", "one-shot", "right", "verdict"]
                table = Table(part, header, list(audit_rows(given.seeds, folder)))
            else:
                header = ["budget", "mechanism", "noise multiplier", "accuracy", "of each seed"]
                table = Table(part, header, list(mechanism_rows(given.seeds, folder)))
            print(f"{as_markdown(table)}\n", flush=True)


if __name__ == "__main__":
    main()
