"""What the README says of Flower's own simulation, as it is written there."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.conformance.command_lines import NOT_STARTED, STARTS, flwr_environment
from tests.support.paths import ROOT

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.long]

SAID_BEFORE = "The same app on Flower's own simulation:"
VARIABLE = "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION"


def block() -> str:
    """The commands of the README, as they are to be typed."""
    after = (ROOT / "README.md").read_text().partition(SAID_BEFORE)[2]
    found = re.match(r"\s*```bash\n(.*?)```", after, re.DOTALL)
    assert found is not None
    return found[1]


def test_it_shows_the_rounds_and_installs_nothing(tmp_path: Path) -> None:
    with flwr_environment(tmp_path / "flwr") as environment:
        # The README's own line sets it.
        environment.pop(VARIABLE)
        environment |= {"PYTHONPATH": str(ROOT)}
        for attempt in range(STARTS):
            folder = tmp_path / str(attempt)
            folder.mkdir()
            done = subprocess.run(
                ["bash", "-euc", f'atoll() {{ {sys.executable} -m atoll "$@"; }}\n{block()}'],
                cwd=folder,
                env=environment,
                capture_output=True,
                text=True,
                timeout=280,
            )
            if not NOT_STARTED.search(done.stdout + done.stderr):
                break
    assert done.returncode == 0, done.stderr
    assert re.findall(r"^round (\d+): accuracy ", done.stdout, re.MULTILINE) == ["1", "2"]
    # Flower removes an environment at a run's end, and leaves the folder that it was in.
    assert (tmp_path / "flwr").is_dir()
    assert not (tmp_path / "flwr" / "runtime-envs").exists()
