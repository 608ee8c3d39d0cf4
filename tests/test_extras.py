"""What a plain installation lacks is asked for in one line, before anything starts."""

from __future__ import annotations

import ast
import sys
import tomllib
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from atoll.attacks import ATTACKS, diagnose_capture
from atoll.errors import InvalidExperimentError
from atoll.extras import EXTRAS, OptionalModule, require
from atoll.platform.arenas.arena_checks import check_before_run
from atoll.platform.arenas.arena_plan import load_arena
from atoll.platform.attack_runs.attack_run import run_attack
from atoll.platform.config.experiment import Experiment
from atoll.platform.runs.checks.preflight import check_settings
from tests.support.paths import ROOT
from tests.support.runs.foreign_files import write_run

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
DISTRIBUTIONS = metadata.packages_distributions()


def names_of(requirements: list[str]) -> set[str]:
    return {canonicalize_name(Requirement(text).name) for text in requirements}


def distributions_of(package: str) -> set[str]:
    return {canonicalize_name(name) for name in DISTRIBUTIONS.get(package, [])}


def imported(module: Path) -> Iterator[str]:
    """The packages that a module's import statements name, outside of ``if TYPE_CHECKING``."""
    nodes = [ast.parse(module.read_text())]
    while nodes:
        node = nodes.pop()
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        if isinstance(node, ast.ImportFrom) and node.module is not None:
            yield node.module.partition(".")[0]
        nodes.extend(ast.iter_child_nodes(node))


@pytest.mark.slow
def test_what_is_imported_is_declared() -> None:
    declared = names_of(PROJECT["dependencies"])
    for module in (ROOT / "atoll").rglob("*.py"):
        for package in set(imported(module)) - set(sys.stdlib_module_names) - {"atoll"}:
            assert distributions_of(package) & declared, f"{module} imports {package}"


def test_each_extra_brings_the_packages_that_name_it() -> None:
    extras = PROJECT["optional-dependencies"]
    for package, extra in EXTRAS.items():
        assert distributions_of(package) & names_of(extras[extra]), package


def test_all_is_every_extra_that_is_not_for_development() -> None:
    extras = PROJECT["optional-dependencies"]
    (everything,) = map(Requirement, extras["all"])
    assert everything.extras == set(extras) - {"all", "dev", "docs"}


@pytest.fixture
def missing(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """A package that Python does not find: so it marks one whose import was stopped."""
    package: str = request.param
    monkeypatch.setitem(sys.modules, package, None)
    return package


def asks_for(what: str, package: str) -> str:
    return f'{what} needs {package}: pip install "atoll[{EXTRAS[package]}]"'


@pytest.mark.parametrize("missing", EXTRAS, indirect=True)
def test_a_missing_package_is_asked_for(missing: str) -> None:
    with pytest.raises(InvalidExperimentError) as refused:
        require(missing, what="this")
    assert str(refused.value) == asks_for("this", missing)
    with pytest.raises(InvalidExperimentError) as refused:
        _ = OptionalModule(f"{missing}.inner", "that").attribute
    assert str(refused.value) == asks_for("that", missing)


@pytest.mark.parametrize(
    ("missing", "tables", "what"),
    [
        ("tensorboardX", {"log": {"tensorboard": True}}, "log.tensorboard"),
        ("mlflow", {"log": {"mlflow": True}}, "log.mlflow"),
        ("sklearn", {"strategy": {"name": "FLAME"}}, "the strategy FLAME"),
        ("opacus", {"client": {"mods": ["dp-sgd"]}}, "client.mods has 'dp-sgd': dp-sgd"),
        ("opacus", {"client": {"mods": ["local-dp"]}}, "client.mods has 'local-dp': local-dp"),
    ],
    indirect=["missing"],
)
def test_an_experiment_that_needs_it_is_refused_without_data(
    missing: str, tables: dict[str, dict[str, object]], what: str
) -> None:
    with pytest.raises(InvalidExperimentError) as refused:
        check_settings(Experiment.from_dict(tables))
    assert str(refused.value) == asks_for(what, missing)


@pytest.mark.parametrize("missing", ["scipy"], indirect=True)
def test_attacks_that_need_it_are_refused_before_anything_is_read(
    missing: str, tmp_path: Path
) -> None:
    run = write_run(tmp_path / "run")
    with pytest.raises(InvalidExperimentError) as refused:
        run_attack(run, "idlg")
    assert str(refused.value) == asks_for("an attack", missing)
    assert not (run / "attacks").exists()
    with pytest.raises(InvalidExperimentError) as refused:
        diagnose_capture(tmp_path / "none")
    assert str(refused.value) == asks_for("atoll doctor", missing)


@pytest.mark.parametrize(
    ("missing", "what"), [("cma", "the attack ggl"), ("scipy", "an attack")], indirect=["missing"]
)
def test_an_arena_that_needs_it_is_refused_before_it_starts(
    missing: str, what: str, tmp_path: Path
) -> None:
    (tmp_path / "arena.toml").write_text(
        'data = { dataset = "digits", clients = 2 }\n'
        'model.name = "mlp"\n'
        'capture = { nodes = "all", rounds = [1] }\n'
        "arena.defenses.none = {}\n"
        'arena.attacks.mine = { name = "ggl", generator = "digits" }\n'
    )
    arena = load_arena(tmp_path / "arena.toml")
    with pytest.raises(InvalidExperimentError) as refused:
        check_before_run(arena)
    assert str(refused.value) == f"arena.attacks.mine: {asks_for(what, missing)}"


def test_every_other_attack_does_without_cma(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cma", None)
    attack = ATTACKS.find("idlg", "attack")()
    attack.check_available()
