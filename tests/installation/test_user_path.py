"""A wheel in an environment with what it declares and nothing else, away from the checkout."""

from __future__ import annotations

import os
import subprocess
import tomllib
import zipfile
from pathlib import Path

import pytest
import yaml

from atoll.platform.starters.starter import STARTERS
from tests.support.environments import build_wheel, make_environment
from tests.support.paths import ROOT

pytestmark = pytest.mark.slow

WALK = Path(__file__).with_name("user_path.py")
NOTEBOOKS = ("nbclient", "ipykernel")
NAMES = """
from atoll.platform.reference.kinds import kinds
from atoll.platform.reference.names import describe_name, names_of
for kind, _ in kinds():
    for name, _ in names_of(kind):
        describe_name(kind, name)
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_wheel(tmp_path_factory.mktemp("wheel"))


@pytest.fixture(scope="module")
def python(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_environment(tmp_path_factory.mktemp("environment") / "venv", wheel, NOTEBOOKS)


def run_in(python: Path, folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    environment |= {"ATOLL_CACHE": str(folder.parent / "cache"), "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [str(python), *arguments],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=280,
    )


def test_the_wheel_has_every_file_that_is_no_module(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    others = {p for p in (ROOT / "atoll").rglob("*") if p.is_file() and p.suffix != ".py"}
    wanted = {str(p.relative_to(ROOT)) for p in others if "__pycache__" not in p.parts}
    assert wanted <= names
    starters = {f"{name}.in" for starter in STARTERS.values() for name in starter.files.values()}
    assert starters <= {Path(name).name for name in names}
    assert {name.partition("/")[0] for name in names if ".dist-info" not in name} == {"atoll"}


def test_what_is_an_extra_is_not_there_and_is_asked_for(python: Path, tmp_path: Path) -> None:
    here = tmp_path / "empty"
    here.mkdir()
    (here / "x.toml").write_text('client.mods = ["dp-sgd"]\ndata.dataset = "digits"\n')
    done = run_in(python, here, "-m", "atoll", "run", "x.toml")
    assert done.returncode == 2
    assert done.stderr.splitlines() == [
        "error: client.mods has 'dp-sgd': dp-sgd needs opacus: pip install \"atoll[dp]\""
    ]


def test_a_name_of_every_kind_is_described_without_extras(python: Path, tmp_path: Path) -> None:
    done = run_in(python, tmp_path, "-c", NAMES)
    assert done.returncode == 0, done.stderr


def test_every_python_that_is_claimed_is_in_the_workflow() -> None:
    workflow = yaml.safe_load((ROOT / ".github/workflows/wheel.yml").read_text())
    tried = workflow["jobs"]["user-path"]["strategy"]["matrix"]["python"]
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    claimed = [text.rpartition(" ")[2] for text in project["classifiers"] if ":: 3." in text]
    assert tried == claimed
    assert project["requires-python"] == f">={claimed[0]}"


@pytest.mark.ray
@pytest.mark.long
def test_the_whole_path_of_a_user(python: Path, tmp_path: Path) -> None:
    here = tmp_path / "empty"
    here.mkdir()
    done = run_in(python, here, "-I", str(WALK))
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
