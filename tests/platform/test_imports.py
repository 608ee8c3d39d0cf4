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


@pytest.mark.parametrize("arguments", [["--help"], ["run", "--help"], ["--version"]])
def test_help_loads_what_it_prints_with(arguments: list[str]) -> None:
    # Typer's help of a command loads Rich where an option has a default or a range.
    unused = ("pydantic", "pyarrow", "numpy", "torch", "ray", "flwr")
    unused += ("rich",) if arguments == ["--help"] else ()
    code = (
        "import sys\nfrom atoll.platform.cli.application import application\n"
        f"application({arguments!r}, standalone_mode=False)\n"
        f"print([n for n in {unused!r} if n in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"
