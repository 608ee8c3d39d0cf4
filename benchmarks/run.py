"""Every engine on every workload, in turn, and the table of benchmarks/README.md.

Timings on a shared machine mean nothing by themselves: each repeat runs all engines of a row one
after the other, and the table shows medians and the ratios within a repeat.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from benchmarks.engines.timing import timings_in
from benchmarks.paths import ROOT
from benchmarks.scaling.own_ray import own_ray
from benchmarks.scaling.processor_time import MARK
from benchmarks.workloads import WORKLOADS

RESULTS = ROOT / "benchmarks" / "results.json"
README = ROOT / "benchmarks" / "README.md"
PFL_PYTHON = ROOT / ".venv-pfl" / "bin" / "python"
BEGIN, END = "<!-- results -->", "<!-- /results -->"
WORKERS = 2


@dataclass(frozen=True)
class Row:
    """One line of the table.

    Attributes
    ----------
    workload : str
        A name in ``benchmarks.workloads`` or ``benchmarks.engines.synthetic``.
    about : str
        What it is.
    engines : dict[str, int]
        The engines, and the rounds that each is given; the first is the one that is measured.
    figure : str
        "round_seconds", "driver_peak_mb" or "first_round_seconds".
    targets : dict[str, float]
        By engine: how many times that engine's figure ours may at most be.
    app : str
        The app in ``benchmarks/apps`` that is run as a program, where it is one.
    of : str
        The row whose runs this figure is of, where it is another's.
    """

    workload: str
    about: str
    engines: dict[str, int]
    targets: dict[str, float]
    figure: str = "round_seconds"
    app: str = ""
    of: str = ""


def _same_runs(of: str, figure: str, about: str) -> Row:
    """Return a row for another figure of a row's runs."""
    row = ROWS[of]
    return replace(row, figure=figure, about=about, of=of)


ROWS = {
    "noop": Row("noop-1000", "1000 no-op clients", {"atoll": 20, "flower": 3}, {"flower": 1 / 100}),
    "cnn-1000x20": Row(
        "cnn-1000x20",
        "CNN, Fashion-MNIST, 1000 clients x 20",
        {"atoll": 8, "plain": 8, "flower": 3},
        {"flower": 1 / 6, "plain": 1 / 0.9},
    ),
    "cnn-100x60": Row(
        "cnn-100x60",
        "CNN, Fashion-MNIST, 100 clients x 60",
        {"atoll": 12, "plain": 12, "pfl": 12, "flower": 5},
        {"flower": 1 / 2.3, "plain": 1 / 0.9, "pfl": 1.0},
    ),
    "mlp-1000x20": Row(
        "mlp-1000x20",
        "MLP, Fashion-MNIST, 1000 clients x 20, vectorised",
        {"atoll": 12, "plain": 12},
        {"plain": 1 / 1.5},
    ),
    "pfl-cifar10": Row(
        "pfl-cifar10",
        "pfl's CIFAR-10 workload, 50 of 1000 clients x 50",
        {"atoll": 20, "plain": 10, "pfl": 20, "flower": 20},
        {"plain": 1 / 0.9, "pfl": 1.0, "flower": 1 / 3},
    ),
    "memory-50": Row(
        "memory-50x11M",
        "driver's peak memory, 50 clients x 11 M parameters",
        {"atoll": 2, "flower": 2},
        {"flower": 1 / 6},
        "driver_peak_mb",
    ),
    "memory-200": Row(
        "memory-200x11M",
        "driver's peak memory, 200 clients x 11 M parameters",
        {"atoll": 2, "atoll-50": 2},
        {"atoll-50": 1.1},
        "driver_peak_mb",
    ),
    "app-1000x20": Row(
        "cnn-1000x20",
        "Flower app, CNN, 1000 clients x 20",
        {"atoll": 6, "plain": 6, "pfl": 6, "flower": 3},
        {"plain": 1 / 0.9, "pfl": 1.0, "flower": 1 / 3},
        app="fashion",
    ),
    "app-100x60": Row(
        "cnn-100x60",
        "Flower app, CNN, 100 clients x 60",
        {"atoll": 12, "plain": 12, "pfl": 12, "flower": 5},
        {"plain": 1 / 0.9, "pfl": 1.0, "flower": 1 / 1.5},
        app="fashion",
    ),
    "app-short": Row(
        "quickstart",
        "Flower's quickstart app, 2 nodes, 2 rounds, processor time of all processes",
        {"atoll": 2, "flower": 2},
        {"flower": 1.0},
        "processor_seconds",
        app="quickstart",
    ),
    "start": Row(
        "cnn-100x60",
        "start of the program to the end of round 1",
        {"atoll-run": 2, "flower": 1},
        {"flower": 1 / 2},
        "first_round_seconds",
    ),
}
ROWS["app-1000x20-cpu"] = _same_runs(
    "app-1000x20",
    "round_processor_seconds",
    "Flower app, CNN, 1000 clients x 20, processor time of all processes",
)
ROWS["app-100x60-cpu"] = _same_runs(
    "app-100x60",
    "round_processor_seconds",
    "Flower app, CNN, 100 clients x 60, processor time of all processes",
)
UNITS = {"round_processor_seconds": "s a round", "processor_seconds": "s"}
UNITS |= {"round_seconds": "s a round", "driver_peak_mb": "MB", "first_round_seconds": "s"}
NAMES = {"atoll": "Atoll", "atoll-run": "`atoll run`", "plain": "plain loop", "pfl": "pfl"}
NAMES |= {"flower": "Flower", "atoll-50": "Atoll, 50 clients"}


def command_of(engine: str, row: Row, rounds: int, folder: Path) -> list[str]:
    """Return the command that runs one engine on a row's workload."""
    if engine == "atoll-run":
        return [sys.executable, "-m", "benchmarks.engines.atoll_run", row.workload]
    if row.app and engine != "pfl":
        return _app_command(engine, row, rounds, _exported(row, folder))
    if engine == "pfl":
        data = _exported(row, folder)
        start = [str(PFL_PYTHON), "-m", "torch.distributed.run", "--nproc_per_node", str(WORKERS)]
        start += ["-m", "benchmarks.engines.pfl_engine", row.workload, "--data", str(data)]
        return [*start, "--rounds", str(rounds)]
    if engine == "atoll-50":
        # Flower would need four times what it needs for 50 clients: more than the machine has.
        return command_of("atoll", ROWS["memory-50"], rounds, folder)
    module = {"atoll": "atoll_engine", "plain": "plain_loop", "flower": "flower_engine"}[engine]
    start = [sys.executable, "-m", f"benchmarks.engines.{module}", row.workload]
    return [*start, "--rounds", str(rounds), "--workers", str(WORKERS)]


def _app_command(engine: str, row: Row, rounds: int, data: Path) -> list[str]:
    arguments = ["--data", str(data), "--rounds", str(rounds), "--workers", str(WORKERS)]
    if engine == "plain":
        return [sys.executable, "-m", "benchmarks.engines.plain_app", *arguments]
    program = [sys.executable, "-m", "benchmarks.engines.app_program", row.app, engine]
    return [*program, *arguments, "--nodes", str(WORKLOADS[row.workload].clients)]


def _exported(row: Row, folder: Path) -> Path:
    data = folder / f"{row.workload}.npz"
    if not data.exists():
        export = [sys.executable, "-m", "benchmarks.export", row.workload, str(data)]
        subprocess.run(export, cwd=ROOT, check=True)
    return data


def measure(engine: str, row: Row, rounds: int, folder: Path) -> dict[str, Any] | None:
    """Run one engine; None if it failed (its output is shown)."""
    mark = {MARK: f"{os.getpid()}-{time.monotonic_ns()}"}
    environment = {
        **os.environ,
        **mark,
        "FLWR_TELEMETRY_ENABLED": "0",
        "RAY_USAGE_STATS_ENABLED": "0",
    }
    done = subprocess.run(
        command_of(engine, row, rounds, folder),
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    timings = timings_in(done.stdout)
    if timings is None:
        print(f"{engine} failed on {row.workload}:\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}")
    return timings


def value_of(timings: dict[str, Any], figure: str) -> float:
    """Return the median of a figure over a run's rounds."""
    value = timings[figure]
    return statistics.median(value) if isinstance(value, list) else float(value)


def run_row(name: str, repeats: int, folder: Path) -> dict[str, dict[str, list[float]]]:
    """Measure a row: all engines in turn, ``repeats`` times.

    Returns
    -------
    dict
        By row and engine the figures; besides the row there are others of the same runs.
    """
    row = ROWS[name]
    figures = {name: row.figure} | {n: r.figure for n, r in ROWS.items() if r.of == name}
    values: dict[str, dict[str, list[float]]] = {
        each: {engine: [] for engine in row.engines} for each in figures
    }
    for repeat in range(repeats):
        timings = {
            engine: measure(engine, row, rounds, folder)
            for engine, rounds in row.engines.items()
            if engine != "pfl" or PFL_PYTHON.exists()
        }
        # Ratios are of one repeat: it counts if all its engines have come to their end.
        for each, figure in figures.items() if None not in timings.values() else ():
            for engine, found in timings.items():
                values[each][engine].append(value_of(found or {}, figure))
                print(
                    f"{each} [{repeat + 1}/{repeats}] {engine}: {values[each][engine][-1]:.3f} "
                    f"{UNITS[figure]}",
                    flush=True,
                )
    return values


def table(results: dict[str, dict[str, list[float]]]) -> str:
    """Return the results as a Markdown table."""
    lines = [
        "| work | Atoll | against | figure | ratio | to reach |",
        "|---|---|---|---|---|---|",
    ]
    for name, row in ROWS.items():
        values = results.get(name, {})
        ours, *others = row.engines
        if not values.get(ours):
            continue
        for engine in others:
            theirs = values.get(engine)
            if not theirs:
                continue
            ratios = [b / a for a, b in zip(values[ours], theirs, strict=False)]
            ratio, target = statistics.median(ratios), 1 / row.targets[engine]
            verdict = "reached" if ratio >= target else "missed"
            lines.append(
                f"| {row.about} | {_figure(values[ours])} {UNITS[row.figure]} | {NAMES[engine]} | "
                f"{_figure(theirs)} | {ratio:.3g}x | {target:.3g}x: {verdict} |"
            )
    return "\n".join(lines)


def _figure(values: list[float]) -> str:
    return f"{statistics.median(values):.3g}"


def write(results: dict[str, dict[str, list[float]]]) -> None:
    """Keep the results and put their table into the README."""
    RESULTS.write_text(json.dumps(results, indent=1) + "\n")
    text = README.read_text()
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    README.write_text(f"{before}{BEGIN}\n{table(results)}\n{END}{after}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("rows", nargs="*", help=f"of {', '.join(ROWS)}; all by default")
    parser.add_argument("--repeats", type=int, default=3)
    arguments = parser.parse_args()
    unknown = set(arguments.rows) - set(ROWS)
    if unknown:
        parser.error(f"no such row: {', '.join(sorted(unknown))}; expected {', '.join(ROWS)}")
    results = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    started = time.perf_counter()
    with own_ray(), tempfile.TemporaryDirectory() as folder:
        # The runs of a row give its other figures too.
        for name in dict.fromkeys(ROWS[name].of or name for name in arguments.rows or ROWS):
            results.update(run_row(name, arguments.repeats, Path(folder)))
            write(results)
    print(table(results))
    print(f"{time.perf_counter() - started:.0f} s")


if __name__ == "__main__":
    main()
