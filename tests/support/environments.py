"""Environments with a wheel of Atoll and the packages that it declares, without a download."""

from __future__ import annotations

import shutil
import subprocess
import sys
import venv
from collections.abc import Iterable
from importlib import metadata
from pathlib import Path

from benchmarks.cost.install_size import closure
from tests.support.paths import ROOT


def build_wheel(folder: Path) -> Path:
    """A wheel of the checkout, built of a copy: building leaves files beside the sources."""
    source = folder / "source"
    shutil.copytree(ROOT / "atoll", source / "atoll", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source / name)
    program = "import sys; from setuptools import build_meta; build_meta.build_wheel(sys.argv[1])"
    _run([sys.executable, "-c", program, str(folder)], source)
    [wheel] = folder.glob("*.whl")
    return wheel


def make_environment(folder: Path, wheel: Path, also: Iterable[str] = ()) -> Path:
    """A virtual environment with a wheel; return its Python.

    It has the distributions that the wheel's metadata declare, and ``also``, as links into this
    environment: what is not declared is not there.
    """
    venv.create(folder, symlinks=True)
    python = folder / "bin" / "python"
    install = ["install", "--quiet", "--no-deps", "--no-index", "--no-warn-script-location"]
    _run([sys.executable, "-m", "pip", "--python", str(python), *install, str(wheel)], folder)
    [site] = (folder / "lib").glob("python*/site-packages")
    installed = metadata.PathDistribution(next(site.glob("atoll-*.dist-info")))
    declared = [text for text in installed.requires or () if "extra ==" not in text]
    for name in closure([*declared, *also]):
        _link(metadata.distribution(name), site)
    return python


def _link(distribution: metadata.Distribution, site: Path) -> None:
    """Link the folders and modules that a distribution has in this environment."""
    here = Path(str(distribution.locate_file("")))
    for top in {file.parts[0] for file in distribution.files or ()} - {"..", "__pycache__"}:
        if not (site / top).exists():
            (site / top).symlink_to(here / top)


def _run(command: list[str], folder: Path) -> None:
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
