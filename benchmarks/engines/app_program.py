"""A user's Flower app, run as a program: by ``atoll flower`` or by Flower's simulation.

The app says by itself when a round has ended.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

from benchmarks.engines.timing import RoundClock
from benchmarks.scaling.processor_time import MARK, ProcessorTime

APPS = Path(__file__).resolve().parents[1] / "apps"
SAMPLE_SECONDS = 0.2


def command_of(
    engine: str, app: Path, config: str, nodes: int, workers: int, out: str
) -> list[str]:
    """Return the command that runs an app."""
    if engine == "atoll":
        command = [sys.executable, "-m", "atoll", "flower", str(app), "--run-config", config]
        command += ["--num-supernodes", str(nodes), "--out", f"{out}/run"]
        return [*command, "--workers", str(workers)] if workers else command
    command = [sys.executable, "-m", "benchmarks.engines.stock_app", str(app), config, str(nodes)]
    return [*command, "--workers", str(workers)] if workers else command


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("app", choices=sorted(path.name for path in APPS.iterdir()))
    parser.add_argument("engine", choices=("atoll", "flower"))
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--nodes", type=int, required=True)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--workers", type=int, default=0, help="0: as the engine chooses")
    arguments = parser.parse_args()
    config = f'data="{arguments.data}" num-server-rounds={arguments.rounds}'
    mark = f"{os.getpid()}"
    os.environ[MARK] = mark
    clock, processor = RoundClock(time.perf_counter()), ProcessorTime(mark)
    with tempfile.TemporaryDirectory() as folder:
        process = subprocess.Popen(
            command_of(
                arguments.engine,
                APPS / arguments.app,
                config,
                arguments.nodes,
                arguments.workers,
                folder,
            ),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        ended = threading.Event()

        def watch() -> None:
            while not ended.wait(SAMPLE_SECONDS):
                processor.sample()

        watching = threading.Thread(target=watch)
        watching.start()
        assert process.stdout is not None
        for line in process.stdout:
            print(line, end="")
            if line.startswith("ROUND ") and not line.startswith("ROUND 0"):
                clock.round_ended()
        process.wait()
        ended.set()
        watching.join()
    if process.returncode != 0:
        sys.exit(process.returncode)
    clock.report(processor_seconds=processor.sample())


if __name__ == "__main__":
    main()
