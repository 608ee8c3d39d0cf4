"""What a short run does not use, it does not load: each import is processor time of a process."""

from __future__ import annotations

import subprocess
import sys

import pytest

HEAVY = ("pyarrow", "pydantic", "torch", "pandas", "scipy", "sklearn", "opacus")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("module", "unused"),
    [
        ("atoll.platform.worker.actor", HEAVY),
        (
            "atoll.platform.runs.app_run",
            ("torch", "pandas", "scipy", "sklearn", "opacus"),
        ),
        ("atoll.platform.runs.app_run", ("ray.autoscaler.sdk", "prometheus_client")),
    ],
)
def test_an_import_brings_nothing_that_is_not_used(module: str, unused: tuple[str, ...]) -> None:
    code = f"import sys, {module}; print([n for n in {unused!r} if n in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
