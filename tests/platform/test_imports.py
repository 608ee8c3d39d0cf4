"""What a short run does not use, it does not load: each import is processor time of a process."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

HEAVY = ("pyarrow", "pydantic", "torch", "pandas", "scipy", "sklearn", "opacus")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("module", "unused"),
    [
        ("atoll.platform.worker.actor", HEAVY),
        (
            "atoll.platform.runs.apps.app_run",
            ("torch", "pandas", "scipy", "sklearn", "opacus"),
        ),
        ("atoll.platform.runs.apps.app_run", ("ray.autoscaler.sdk", "prometheus_client")),
        # A file with an error is refused, a run is watched and folders are listed without them.
        ("atoll.platform.config.experiment", ("torch", "ray", "flwr")),
        ("atoll.platform.cli.watching.watch", ("torch", "ray", "flwr")),
        ("atoll.platform.results.inventory", ("torch", "ray", "flwr")),
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


@pytest.mark.parametrize(
    ("command", "name"),
    [
        ("run x.toml", "x.toml"),
        ("audit x.toml", "x.toml"),
        ("audit x.toml --csv", "x.toml"),
        ("arena x.toml", "x.toml"),
        ("sweep x.toml", "x.toml"),
        ("attack runs/a --attack idlg", "a"),
        ("membership runs/a --latex", "a"),
        ("labels runs/a", "a"),
        ("doctor runs/a", "a"),
        ("export runs/a --to torch --out b", "a"),
        ("watch runs/a --web", "a"),
        ("data get digits", "digits"),
        ("train-generator digits", "digits"),
        ("train-prior digits --out p", "digits"),
    ],
)
def test_a_command_says_that_it_loads_before_it_loads(
    tmp_path: Path, command: str, name: str
) -> None:
    (tmp_path / "x.toml").write_text("[audit]\n")
    # Each import of these fails: what is printed was printed before.
    code = (
        "import sys\nsys.modules |= dict.fromkeys(('torch', 'numpy', 'ray', 'flwr', 'pydantic'))\n"
        "from atoll.platform.cli.application import application\n"
        f"application({command.split()!r})\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, check=False
    )
    is_table = "--csv" in command or "--latex" in command
    said, silent = (done.stderr, done.stdout) if is_table else (done.stdout, done.stderr)
    assert said.startswith(f"{name}: loading PyTorch"), done
    assert f"{name}: loading" not in silent
