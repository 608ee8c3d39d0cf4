"""Atoll as a process that runs app directories one after another, each as ``atoll flower`` does.

python atoll_driver.py JOBS.json RESULTS.jsonl
"""

from __future__ import annotations

import os
import sys
from typing import Any

from tests.support.conformance import engine_process

os.environ["FLWR_TELEMETRY_ENABLED"] = "0"
os.environ["RAY_USAGE_STATS_ENABLED"] = "0"

from atoll.__main__ import main as atoll_command


def start(jobs: list[dict[str, Any]]) -> None:
    engine_process.start_ray()


def run(job: dict[str, Any]) -> int:
    overrides = [part for text in job["run_config"] for part in ("--run-config", text)]
    sys.argv = ["atoll", "flower", job["app"], "--num-supernodes", str(job["nodes"])]
    sys.argv += [
        "--out",
        job["out"],
        "--workers",
        str(job["workers"]),
        *overrides,
        *job["atoll_options"],
    ]
    try:
        atoll_command()
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    return 0


if __name__ == "__main__":
    engine_process.main(start, run)
