"""Growth of time and memory with clients a round, population, model size and workers.

Run it: ``python -m benchmarks.scaling.scale``. Each point runs in a process of its own and is
written to ``scale.json`` when it ends; a second start continues the points that are missing.
Growth is fitted twice: as a power (the slope of logarithms) and as a line, which also says what ten
times the largest point would need.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import statistics
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from benchmarks.engines.timing import timings_in
from benchmarks.paths import ROOT

RESULTS = ROOT / "benchmarks" / "scaling" / "scale.json"
PAGE = ROOT / "docs" / "results" / "scale.md"
BEGIN, END = "<!-- results -->", "<!-- /results -->"
BUDGET = 300.0

Results = dict[str, dict[str, dict[str, Any]]]


@dataclass(frozen=True)
class Axis:
    """Axis of growth, and the figures that are measured along it.

    Attributes
    ----------
    title : str
        What grows.
    fixed : str
        What does not.
    sizes : tuple[int, ...]
        The points, ascending.
    figures : dict[str, str]
        A column's title by the key of a figure; each column is fitted.
    """

    title: str
    fixed: str
    sizes: tuple[int, ...]
    figures: Mapping[str, str]


ROUND = {"round_seconds": "a round, s"}
MEMORY = {"driver_peak_mb": "driver's peak, MB", "worker_peak_mb": "a worker's peak, MB"}
AXES = {
    "clients": Axis(
        "Clients a round",
        "clients that send back what they get, 1,000 parameters, two workers, with the ledger",
        (100, 300, 1_000, 3_000, 10_000, 30_000, 100_000),
        {**ROUND, **MEMORY},
    ),
    "population": Axis(
        "Registered clients",
        "an example each, 100 of them train a linear model a round, two workers, with the ledger",
        (1_000, 10_000, 100_000, 1_000_000, 10_000_000),
        {
            "partition_seconds": "partition, s",
            "register_seconds": "register, s",
            "sample_seconds": "sample, s",
            "histogram_seconds": "histograms, s",
            **ROUND,
            **MEMORY,
        },
    ),
    "parameters": Axis(
        "Parameters",
        "8 clients a round that send back what they get, two workers, with the ledger",
        (10_000, 100_000, 1_000_000, 10_000_000, 100_000_000),
        {**ROUND, **MEMORY},
    ),
    "workers": Axis(
        "Workers",
        "1,000 clients a round train a small CNN on 20 images each of Fashion-MNIST",
        (1, 2),
        {**ROUND, **MEMORY},
    ),
}


@dataclass(frozen=True)
class Fit:
    """Growth of a figure with size.

    Attributes
    ----------
    power : float
        The slope of the logarithms over all points: 1 is in proportion, 2 quadratic.
    last_power : float
        The same between the last two points, where fixed costs matter least.
    constant, slope : float
        The line ``constant + slope * size``, by least squares of relative errors, so that small
        points count too.
    """

    power: float
    last_power: float
    constant: float
    slope: float

    def at(self, size: float) -> float:
        """Return the line's value at ``size``."""
        return self.constant + self.slope * size


def fit(sizes: Sequence[int], values: Sequence[float]) -> Fit:
    """Fit a power and a line to a figure.

    Parameters
    ----------
    sizes : Sequence[int]
        At least two, ascending.
    values : Sequence[float]
        The figure at each, positive.
    """
    x, y = np.asarray(sizes, float), np.asarray(values, float)
    power = np.polyfit(np.log(x), np.log(y), 1)[0]
    last_power = math.log(y[-1] / y[-2]) / math.log(x[-1] / x[-2])
    columns = np.stack([np.ones_like(x), x], axis=1) / y[:, None]
    (constant, slope), *_ = np.linalg.lstsq(columns, np.ones_like(y), rcond=None)
    return Fit(float(power), last_power, float(constant), float(slope))


def value_of(point: Mapping[str, Any], figure: str) -> float:
    """Return a figure of a point: the median, where it has one a round."""
    value = point[figure]
    return float(statistics.median(value) if isinstance(value, list) else value)


# --- measuring -----------------------------------------------------------------------------------


def measure(axis: str, size: int, rounds: int, budget: float) -> dict[str, Any] | None:
    """Run a point in a process of its own; None if it failed or took longer than ``budget``."""
    command = [sys.executable, "-m", "benchmarks.scaling.scale_point", axis, str(size)]
    environment = {**os.environ, "FLWR_TELEMETRY_ENABLED": "0", "RAY_USAGE_STATS_ENABLED": "0"}
    load = os.getloadavg()[0]
    try:
        done = subprocess.run(
            [*command, "--rounds", str(rounds)],
            cwd=ROOT,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
            timeout=budget,
        )
    except subprocess.TimeoutExpired:
        print(f"{axis} {size:,}: not done after {budget:g} s")
        return None
    timings = timings_in(done.stdout)
    if timings is not None:
        return {**timings, "load_before": load, "cores": os.cpu_count()}
    print(f"{axis} {size:,} failed:\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}")
    return None


def run_axis(name: str, sizes: Sequence[int], results: Results, arguments: Any) -> None:
    """Measure what is missing of an axis, until a point fails or takes too long."""
    for size in sizes:
        points = results.setdefault(name, {})
        if str(size) in points and not arguments.again:
            continue
        point = measure(name, size, arguments.rounds, arguments.budget)
        if point is None:
            return
        points[str(size)] = point
        write(results)
        print(
            f"{name} {size:,}: {value_of(point, 'round_seconds'):.3g} s a round, driver "
            f"{point['driver_peak_mb']:.0f} MB",
            flush=True,
        )


def write(results: Results) -> None:
    """Keep the results, as a whole or not at all."""
    partial = RESULTS.with_suffix(".partial")
    partial.write_text(json.dumps(results, indent=1) + "\n")
    partial.replace(RESULTS)


# --- showing -------------------------------------------------------------------------------------


def tables(results: Results) -> str:
    """Return the results as Markdown: a table of points and one of fits for each axis."""
    parts = []
    for name, axis in AXES.items():
        points = results.get(name, {})
        sizes = sorted(map(int, points))
        if sizes:
            parts += [f"### {axis.title}", f"Fixed: {axis.fixed}.", _points(axis, sizes, points)]
        if len(sizes) >= 3:
            parts.append(_fits(axis, sizes, points))
    return "\n\n".join(parts)


def _points(axis: Axis, sizes: Sequence[int], points: Mapping[str, Any]) -> str:
    titles = [axis.title.lower(), *axis.figures.values(), "load before"]
    rows = [
        [
            f"{size:,}",
            *(_number(value_of(points[str(size)], figure)) for figure in axis.figures),
            f"{points[str(size)]['load_before']:.1f}",
        ]
        for size in sizes
    ]
    return _markdown(titles, rows)


def _fits(axis: Axis, sizes: Sequence[int], points: Mapping[str, Any]) -> str:
    next_size = 10 * sizes[-1]
    rows = []
    for figure, title in axis.figures.items():
        fitted = fit(sizes, [value_of(points[str(size)], figure) for size in sizes])
        rows.append(
            [
                title,
                f"{fitted.power:.2f}",
                f"{fitted.last_power:.2f}",
                f"{_number(fitted.constant)} + {_number(1e6 * fitted.slope)} a million",
                _number(fitted.at(next_size)),
            ]
        )
    titles = ["figure", "power", "power, last two", "line", f"at {next_size:,} by the line"]
    return _markdown(titles, rows)


def _number(value: float) -> str:
    if abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:.3g}"


def _markdown(titles: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [titles, ["---"] * len(titles), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def write_page(results: Results) -> None:
    """Put the tables into docs/results/scale.md."""
    before, _, rest = PAGE.read_text().partition(BEGIN)
    _, _, after = rest.partition(END)
    PAGE.write_text(f"{before}{BEGIN}\n{tables(results)}\n{END}{after}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("axes", nargs="*", metavar="AXIS", help=f"{', '.join(AXES)}; or all")
    parser.add_argument("--only", type=int, nargs="+", metavar="SIZE", help="these sizes")
    parser.add_argument("--budget", type=float, default=BUDGET, help="seconds a point may take")
    parser.add_argument("--rounds", type=int, default=3, help="rounds timed, after one more")
    parser.add_argument("--again", action="store_true", help="measure points that are there again")
    parser.add_argument("--show", action="store_true", help="measure nothing, show what is there")
    parser.add_argument(
        "--markdown", action="store_true", help="put the tables into docs/results/scale.md"
    )
    arguments = parser.parse_args()
    unknown = set(arguments.axes) - set(AXES)
    if unknown:
        parser.error(f"no such axis: {', '.join(sorted(unknown))}; expected {', '.join(AXES)}")
    results: Results = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    for name in () if arguments.show else arguments.axes or AXES:
        run_axis(name, sorted(arguments.only or AXES[name].sizes), results, arguments)
    print(tables(results))
    if arguments.markdown:
        write_page(results)


if __name__ == "__main__":
    main()
