"""Membership of clients' examples and audits of epsilon, in small federations.

``python -m benchmarks.privacy.audits`` runs small federations with seeds 0, 1 and 2 and prints the
tables of docs/results/privacy.md.

- membership: 10 clients with 40 digits each train a perceptron for many passes; every update is
  captured. Scores of all candidates of all seeds are put together. LiRA and RMIA have 32 shadow
  federations a seed without defense, where they are stacked, and 8 with one.
- audits: the mechanisms of ``benchmarks.privacy.audited_mechanisms``. Figures are added to
  ``--out``, and those that are there are not made again; ``--seconds`` ends it after a while, and
  the same command continues; ``--table`` prints what there is.

``--only NAME`` runs one of the two; ``--seeds 0`` one seed. ``benchmarks.privacy.server_noise``
compares the server's mechanisms.
"""

from __future__ import annotations

import argparse
import itertools
import json
import logging
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

import ray

from atoll import Experiment, MembershipRun, ShadowSettings, run, run_membership
from atoll.platform.cluster.connection import patient_start
from atoll.platform.reports.tables import Cell, Table, as_markdown
from benchmarks.accuracy.recorded import add_trial_options, commit, date_and_commit, run_missing
from benchmarks.privacy.audited_mechanisms import MECHANISMS, audit_figures, audit_table

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


def run_audits(given: argparse.Namespace, out: Path, folder: Path) -> Table:
    """Run the audits that a file lacks, and return the table of all."""

    def figures(mechanism: str, seed: int) -> dict[str, Any]:
        return {"commit": commit(), **audit_figures(mechanism, seed, folder)}

    keys = itertools.product(given.seeds, given.mechanisms or MECHANISMS)
    trials = ((mechanism, seed) for seed, mechanism in keys)
    run_missing(trials, ("mechanism", "seed"), figures, out, given.seconds)
    return audit_table(json.loads(out.read_text()))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--only", choices=("membership", "audits"))
    parser.add_argument("--mechanisms", nargs="+", choices=MECHANISMS, help="of audits; all")
    add_trial_options(parser, SEEDS, needs_file=False)
    given = parser.parse_args()
    if given.table is not None:
        print(as_markdown(audit_table(json.loads(given.table.read_text()))))
        return
    for name in ("atoll", "flwr"):
        logging.getLogger(name).setLevel(logging.ERROR)
    print(f"{date_and_commit()}, seeds {list(given.seeds)}\n", flush=True)
    # One Ray for all runs.
    with patient_start():
        ray.init(num_cpus=2, include_dashboard=False, logging_level="ERROR", log_to_driver=False)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for part in (given.only,) if given.only else ("audits", "membership"):
            if part == "membership":
                for table in membership_tables(given.seeds, folder):
                    print(f"{as_markdown(table)}\n", flush=True)
                continue
            out = given.out or folder / "audits.json"
            table = run_audits(given, out, folder)
            print(f"{as_markdown(table)}\n", flush=True)


if __name__ == "__main__":
    main()
