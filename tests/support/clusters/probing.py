"""Probes: scripts that start a Ray of their own, and print what they found for the tests."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Mapping, Sequence
from typing import Any

from tests.support.paths import ROOT

MARK = "FOUND "


def environment_without_ray() -> dict[str, str]:
    """This process's environment, for a process that imports these sources and no running Ray."""
    found = {**os.environ, "PYTHONPATH": str(ROOT)}
    found.pop("RAY_ADDRESS", None)
    return found


def found_by(
    command: Sequence[object], environment: Mapping[str, str] | None = None, *, timeout: float = 280
) -> dict[str, Any]:
    """Run a probe; return what it printed after ``FOUND``."""
    done = subprocess.run(
        list(map(str, command)),
        env=environment_without_ray() if environment is None else dict(environment),
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )
    lines = [line for line in done.stdout.splitlines() if line.startswith(MARK)]
    assert lines, done.stdout + done.stderr
    return dict(json.loads(lines[0].removeprefix(MARK)))
