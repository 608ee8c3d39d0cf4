"""``atoll init``: what it writes runs, and nothing that is there is lost."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from typer.testing import CliRunner

from atoll.platform.cli.application import application
from atoll.platform.config.experiment import load_experiment
from atoll.platform.reference.experiment_keys import all_keys, sections
from atoll.platform.starters.starter import EXPERIMENT, STARTERS, write_starter
from tests.support.conformance.command_lines import flwr_environment, flwr_run
from tests.support.paths import ROOT

KINDS = [kind for kind in STARTERS if kind != "flower-app"]


def init(*arguments: object, code: int = 0) -> str:
    done = CliRunner().invoke(application, ["init", *map(str, arguments)])
    assert done.exit_code == code, done.output
    return done.output


def shell(command: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """A command of ``atoll``'s as a shell runs it in a folder."""
    words = command.split()
    assert words[0] == "atoll"
    return subprocess.run(
        [sys.executable, "-m", *words],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=280,
    )


@pytest.mark.parametrize("kind", KINDS)
def test_an_experiment_is_valid_and_commented(kind: str, tmp_path: Path) -> None:
    output = init(tmp_path / "new", "--kind", kind)
    path = tmp_path / "new" / EXPERIMENT
    assert f"wrote {path}" in output.replace("\n", "")
    assert all(f"  {command}" in output for command in STARTERS[kind].commands)
    experiment = load_experiment(path)
    assert experiment.run.name == kind
    text = path.read_text()
    assert text.count("#") > 10
    for section in tomllib.loads(text):
        assert section in sections()
    # Every key that a comment explains is one: `atoll explain client.learning_rate`.
    for line in text.splitlines():
        if "atoll explain" in line:
            key = line.split("atoll explain ")[1].split()[0]
            assert key in all_keys() or key.startswith("strategy.")


def test_nothing_is_overwritten_without_force(tmp_path: Path) -> None:
    path = tmp_path / EXPERIMENT
    path.write_text("mine")
    assert "is there already" in init(tmp_path, code=2)
    assert path.read_text() == "mine"
    init(tmp_path, "--force")
    assert path.read_text() != "mine"
    # Of several files that one is there of, none is written.
    (tmp_path / "app").mkdir()
    (tmp_path / "app" / "task.py").write_text("mine")
    assert "task.py" in init(tmp_path / "app", "--kind", "flower-app", code=2)
    assert [file.name for file in (tmp_path / "app").iterdir()] == ["task.py"]


def test_a_kind_that_is_none_is_answered_with_the_nearest(tmp_path: Path) -> None:
    assert "did you mean 'images'?" in init(tmp_path, "--kind", "imagse", code=2)
    assert "expected a folder" in init(Path(__file__), code=2)
    assert not list(tmp_path.iterdir())


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.long
@pytest.mark.parametrize("kind", KINDS)
def test_what_it_says_to_do_next_runs(kind: str, tmp_path: Path) -> None:
    write_starter(STARTERS[kind], tmp_path)
    for command in STARTERS[kind].commands:
        done = shell(command, tmp_path)
        assert done.returncode == 0, done.stderr
    assert (tmp_path / "runs" / kind / "result.json").is_file()


def accuracies(output: str) -> list[float]:
    lines = [line for line in output.splitlines() if re.match(r"round \d+: accuracy ", line)]
    return [float(line.rpartition(" ")[2]) for line in lines]


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.long
def test_the_flower_app_learns_on_both_engines(tmp_path: Path) -> None:
    app = tmp_path / "app"
    write_starter(STARTERS["flower-app"], app)
    ours = shell("atoll flower . --num-supernodes 4", app)
    assert ours.returncode == 0, ours.stderr
    with flwr_environment(tmp_path / "flwr") as environment:
        stock = flwr_run(app, "num-rounds=5", environment)
    for output in (ours.stdout, stock.stdout):
        found = accuracies(output)
        assert len(found) == 5, output
        assert found[-1] > 0.8
