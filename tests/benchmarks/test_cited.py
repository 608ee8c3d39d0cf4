"""Benchmarks that pages cite are found where the pages say, and are Atoll's."""

from __future__ import annotations

import os
import re
import subprocess
import sys

from tests.support.paths import ROOT

CITED = re.compile(r"python\s+-m\s+benchmarks\.([\w.]+\w)")
PAGES = ["README.md", "CONTRIBUTING.md", "benchmarks/README.md"]


def test_each_is_in_the_root_of_a_checkout() -> None:
    pages = [ROOT / name for name in PAGES] + sorted((ROOT / "docs").rglob("*.md"))
    cited = {name for page in pages for name in CITED.findall(page.read_text())} - {"NAME"}
    assert {"run", "privacy.gifd", "accuracy.centralised", "scaling.scale"} <= cited
    # As ``python -m`` looks for them; another distribution has a package of this name too.
    code = (
        "import importlib.util\n"
        f"for name in {sorted(cited)}:\n"
        "    print(importlib.util.find_spec(f'benchmarks.{name}').origin)\n"
    )
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    found = [ROOT / "benchmarks" / f"{name.replace('.', '/')}.py" for name in sorted(cited)]
    assert done.stdout.splitlines() == list(map(str, found))
