"""Time to the first line of output of commands, beside Python's own import of Typer.

Each repeat runs every program once, one after the other; the table has medians, and the median of
the ratios within a repeat. A run is interrupted when it has said its first line.
"""

from __future__ import annotations

import argparse
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.paths import ROOT

YARDSTICK = '`python -c "import typer"`'
ATOLL = [sys.executable, "-m", "atoll"]


def programs(folder: Path) -> dict[str, list[str]]:
    """Return the commands that are timed, by what the table calls them."""
    experiment = folder / "small.toml"
    experiment.write_text(
        'run.rounds = 1\ndata = { dataset = "digits", clients = 2 }\nmodel.name = "mlp"\n'
    )
    return {
        YARDSTICK: [sys.executable, "-c", "import typer; print()"],
        "`atoll --help`": [*ATOLL, "--help"],
        "`atoll list`": [*ATOLL, "list"],
        "`atoll list models`": [*ATOLL, "list", "models"],
        "`atoll explain KEY`": [*ATOLL, "explain", "client.gradient_clip"],
        "`atoll runs`": [*ATOLL, "runs", str(folder)],
        "`atoll audit FILE`": [*ATOLL, "audit", str(experiment), "--out", str(folder / "audit")],
        "`atoll run FILE`": [*ATOLL, "run", str(experiment), "--out", str(folder / "run")],
    }


def first_line_seconds(command: list[str]) -> float:
    """Return the seconds from the start of a program to its first line, and end the program."""
    started = time.perf_counter()
    # As a terminal shows it: errors and the log count too.
    with subprocess.Popen(
        command,
        cwd=ROOT,
        env={**os.environ, "PYTHONUNBUFFERED": "1", "RAY_ADDRESS": "local"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    ) as process:
        assert process.stdout is not None
        line = process.stdout.readline()
        seconds = time.perf_counter() - started
        if not line:
            raise RuntimeError(f"{' '.join(command)}: exit code {process.wait()} without a line")
        try:
            process.wait(timeout=0.2)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGINT)
        process.stdout.read()
    return seconds


def table(seconds: dict[str, list[float]]) -> str:
    """Return the times and their ratios as a Markdown table."""
    lines = ["| program | seconds to its first line | x `import typer` |", "|---|---|---|"]
    for name, values in seconds.items():
        ratios = [a / b for a, b in zip(values, seconds[YARDSTICK], strict=True)]
        median, ratio = statistics.median(values), statistics.median(ratios)
        lines.append(f"| {name} | {median:.3f} | {ratio:.2f} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=11)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        timed = programs(Path(folder))
        seconds: dict[str, list[float]] = {name: [] for name in timed}
        for _ in range(arguments.repeats):
            for name, command in timed.items():
                seconds[name].append(first_line_seconds(command))
    print(table(seconds))


if __name__ == "__main__":
    main()
