"""Rounds of this checkout beside those of another one, in turn in one run.

``python -m benchmarks.cost.two_commits OTHER`` says whether a change of the code's structure has
made rounds slower. Workloads are those of ``benchmarks.run``; the ratio is this checkout's figure
by the other's, the median over repeats.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.accuracy.recorded import date_and_commit
from benchmarks.engines.timing import timings_in
from benchmarks.paths import ROOT
from benchmarks.scaling.own_ray import own_ray
from benchmarks.scaling.processor_time import MARK

ROUNDS = {"noop-1000": 20, "cnn-1000x20": 6, "cnn-100x60": 12, "mlp-1000x20": 12}
FIGURES = {"round_seconds": "wall", "round_processor_seconds": "processor time"}


def figures_of(checkout: Path, workload: str, rounds: int, cache: Path) -> dict[str, float]:
    """Run the engine of a checkout; return the median of each figure over rounds, in seconds.

    ``cache`` holds its data sets: another commit's may have another format.

    Raises
    ------
    RuntimeError
        If it fails; with what it said.
    """
    command = [sys.executable, "-m", "benchmarks.engines.atoll_engine", workload]
    done = subprocess.run(
        [*command, "--rounds", str(rounds)],
        cwd=checkout,
        env={
            **os.environ,
            "PYTHONPATH": str(checkout),
            "ATOLL_CACHE": str(cache),
            MARK: f"{os.getpid()}-{time.monotonic_ns()}",
        },
        capture_output=True,
        text=True,
        check=False,
    )
    timings = timings_in(done.stdout)
    if timings is None:
        said = f"{done.stdout[-2000:]}{done.stderr[-2000:]}"
        raise RuntimeError(f"{checkout}: {workload} failed\n{said}")
    return {name: statistics.median(timings[name]) for name in FIGURES}


def main() -> None:
    """Print a row for each workload and figure."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("other", type=Path, help="the folder of the other checkout")
    parser.add_argument("--workloads", nargs="+", choices=ROUNDS, default=list(ROUNDS))
    parser.add_argument("--repeats", type=int, default=3)
    arguments = parser.parse_args()
    other = arguments.other.resolve()
    if not (other / "benchmarks" / "engines" / "atoll_engine.py").exists():
        parser.error(f"{other}: expected a checkout with benchmarks/engines/atoll_engine.py")
    print(f"{date_and_commit()}\n\n| workload | figure | other | this | ratio |")
    print("|---|---|---|---|---|")
    with own_ray(), tempfile.TemporaryDirectory() as folder:
        places = [(other, Path(folder) / "other"), (ROOT, Path(folder) / "this")]
        for workload in arguments.workloads:
            pairs = [
                [figures_of(at, workload, ROUNDS[workload], cache) for at, cache in places]
                for _ in range(arguments.repeats)
            ]
            for figure, about in FIGURES.items():
                before, after = ([pair[i][figure] for pair in pairs] for i in (0, 1))
                ratio = statistics.median(b / a for a, b in zip(before, after, strict=True))
                print(
                    f"| {workload} | {about} | {statistics.median(before):.3f} s | "
                    f"{statistics.median(after):.3f} s | {ratio:.2f} |",
                    flush=True,
                )


if __name__ == "__main__":
    main()
