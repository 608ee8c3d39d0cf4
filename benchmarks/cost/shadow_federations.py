"""Time of a shadow federation, as a share of that of the victim's run.

``python -m benchmarks.cost.shadow_federations`` runs the quickstart's federation once, by ``atoll
run``, and then some shadow federations of it on the same workers. It prints seconds a federation,
with the start of Ray and of the workers and without, and the share.

``--set KEY=VALUE`` changes the experiment (``model.name=mlp``, say); ``--shadows`` how many.
"""

from __future__ import annotations

import argparse
import logging
import tempfile
import time
from pathlib import Path

import pyarrow.parquet as pq

from atoll import load_experiment, run
from atoll.attacks.captures.capture_files import find_captures, read_capture, read_truth
from atoll.platform.attack_runs.shadows.shadow_runs import Asked, ShadowRuns
from atoll.platform.reports.tables import Cell, Table, as_markdown
from benchmarks.accuracy.recorded import ROOT, date_and_commit

CANDIDATES = 50
CAPTURED = 2


def measured(changes: list[str], shadows: int, folder: Path) -> Table:
    """Return the table of both."""
    settings = ["log.progress=false", *changes]
    experiment = load_experiment(ROOT / "experiments" / "quickstart.toml", settings)
    rounds = experiment.run.rounds
    tables = experiment.to_dict()
    tables["capture"] = {"nodes": "all", "rounds": [rounds]}
    experiment = type(experiment).from_dict(tables)
    began = time.perf_counter()
    done = run(experiment, out=folder / "victim")
    whole = time.perf_counter() - began
    of_rounds = sum(pq.read_table(done.directory / "rounds.parquet").column("seconds").to_pylist())
    runs = ShadowRuns(done.directory, experiment, _asked(done.directory), seed=0)
    told: list[tuple[int, float]] = []
    began = time.perf_counter()
    runs.run(shadows, lambda ended, of: told.append((ended, time.perf_counter() - began)))
    total = time.perf_counter() - began
    count = told[-1][0]
    rows: list[list[Cell]] = [
        ["the run alone, whole command", f"{whole:.1f}", "1"],
        ["the run alone, its rounds", f"{of_rounds:.1f}", f"{of_rounds / whole:.2f}"],
        [
            f"a shadow federation, of {count}",
            f"{total / count:.2f}",
            f"{total / count / whole:.2f} ({total / count / of_rounds:.2f} of the rounds)",
        ],
    ]
    how = "stacked" if runs.obstacle is None else f"one at a time ({runs.obstacle})"
    title = f"{experiment.model.name}, {rounds} rounds, {experiment.ray.workers} workers: {how}"
    return Table(title, ["what", "seconds", "share"], rows)


def _asked(directory: Path) -> list[Asked]:
    """Return some captured clients, with their first examples as candidates."""
    found = []
    for path in find_captures(directory)[:CAPTURED]:
        capture, truth = read_capture(path), read_truth(path)
        members = truth.indices[:CANDIDATES].numpy()
        others = members * 0 + range(len(members))
        found.append(Asked(capture.node_id, (capture.server_round,), members, others))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--shadows", type=int, default=16)
    given = parser.parse_args()
    logging.getLogger("atoll").setLevel(logging.ERROR)
    with tempfile.TemporaryDirectory() as folder:
        table = measured(given.set, given.shadows, Path(folder))
    print(f"{date_and_commit()}\n\n{as_markdown(table)}", flush=True)


if __name__ == "__main__":
    main()
