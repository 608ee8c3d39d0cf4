"""Somebody else's files: what they name is imported with --trust-code only, at every entry point.

The planted module leaves a file when it is imported.
"""

from __future__ import annotations

import io
import json
import os
import shutil
import subprocess
import sys
import tempfile
import textwrap
from pathlib import Path
from typing import Any

import pytest
import tomli_w
from rich.console import Console
from typer.testing import CliRunner

from atoll.attacks.arena.arena_job import Conditions, Job, run_job
from atoll.clients.data.catalog.loading import load_dataset
from atoll.clients.settings import ClientSettings, ModelSettings
from atoll.errors import AtollError, UntrustedCodeError
from atoll.files.recorded import write_recorded_text
from atoll.platform.cli import terminal
from atoll.platform.cli.application import application
from atoll.platform.config.experiment import Experiment
from atoll.user_code.main_module import MainCode
from atoll.user_code.trust import note, uses_in
from tests.support.paths import ROOT
from tests.support.runs.foreign_files import tables_of, write_a_capture, write_run

PLANTED = """
    from pathlib import Path

    Path({marker!r}).touch()

    from atoll.clients.models import MODELS


    def net(image_shape, classes):
        return MODELS.find("linear", "model.name")(image_shape=image_shape, classes=classes)


    def mod(message, context, call_next):
        return call_next(message, context)


    def no_strategy():
        return None
"""
# Each place in an experiment that may name code.
PLACES: dict[str, dict[str, Any]] = {
    "model": {"model": {"name": "planted:net"}},
    "inner model": {"model": {"name": "precode", "base": "planted:net"}},
    "mod": {"client": {"mods": ["planted:mod"]}},
    "mod with arguments": {"client": {"mods": [{"name": "planted:mod", "x": 1}]}},
    "strategy": {"strategy": {"name": "planted:no_strategy"}},
    "inner strategy": {
        "strategy": {
            "name": "DifferentialPrivacyServerSideFixedClipping",
            "noise_multiplier": 1.0,
            "clipping_norm": 1.0,
            "num_sampled_clients": 2,
            "strategy": {"name": "planted:no_strategy"},
        }
    },
    "data set": {"data": {"dataset": "planted:data"}},
    "partitioner": {"data": {"partition": {"name": "planted:partitioner"}}},
}


@pytest.fixture
def marker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the planted module is the current one; this is what it leaves."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setattr(sys, "path", list(sys.path))
    trace = tmp_path / "imported"
    source = textwrap.dedent(PLANTED).format(marker=str(trace))
    (tmp_path / "planted.py").write_text(source)
    monkeypatch.delitem(sys.modules, "planted", raising=False)
    return trace


def atoll(*arguments: object) -> tuple[int, str]:
    done = CliRunner().invoke(application, [str(a) for a in arguments], env={"COLUMNS": "1000"})
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    return done.exit_code, done.output


COMMANDS = {
    "attack": lambda run: (run, "--attack", "random-image", "--lpips", "none"),
    "labels": lambda run: (run, "--public"),
    "doctor": lambda run: (next(run.glob("captures/*-train")),),
    "resume": lambda run: (run,),
    "report": lambda run: (run,),
    "watch": lambda run: (run, "--once"),
    "runs": lambda run: (run,),
    "compare": lambda run: (run, "--out", run / "comparison.html"),
    "plot": lambda run: (run, "--out", run / "plot.svg"),
    "export": lambda run: (run, "--to", "safetensors", "--out", run / "x.safetensors"),
}


@pytest.mark.slow
@pytest.mark.parametrize("place", PLACES)
def test_what_a_run_directory_names_is_not_imported(place: str, marker: Path) -> None:
    run = write_run(marker.parent / "run", **PLACES[place])
    for command, arguments in COMMANDS.items():
        code, output = atoll(command, *arguments(run))
        assert not marker.exists(), command
        assert "planted" not in sys.modules
        is_in_capture = place in ("model", "inner model", "mod", "mod with arguments")
        if command in ("attack", "resume") or (command == "doctor" and is_in_capture):
            assert code == 2, output
            assert "planted:" in output, output
            assert "expected --trust-code" in output


@pytest.mark.parametrize("command", ["attack", "doctor"])
def test_what_is_trusted_is_imported_and_shown_first(command: str, marker: Path) -> None:
    run = write_run(marker.parent / "run", model={"name": "planted:net"})
    code, output = atoll(command, *COMMANDS[command](run), "--trust-code")
    assert marker.exists()
    assert "trusted: model.name = 'planted:net'" in output
    # The doctor finds that the update is not that of the examples.
    assert code == (1 if command == "doctor" else 0), output


def test_a_query_of_somebody_elses_is_not_imported_for_labels(marker: Path) -> None:
    run = write_run(marker.parent / "run")
    model = ModelSettings(name="planted:net")
    folder = write_a_capture(
        run, model=model, client=ClientSettings(), message_type="query.moments"
    )
    # As an alignment strategy asks for head gradients.
    about = json.loads((folder / "capture.json").read_text())
    about["sent"]["alignment"] = {
        "statistics": ['{"name": "head-gradient"}'],
        "domains": ["a"],
        "seed": 0,
    }
    about["reply"]["domains"] = {"names": ["a"]}
    (folder / "manifest.json").unlink()
    (folder / "capture.json").write_text(json.dumps(about))
    code, output = atoll("labels", run)
    assert code != 0, output
    assert not marker.exists()


def test_resuming_a_flower_app_of_somebody_elses_imports_nothing(marker: Path) -> None:
    app = marker.parent / "app"
    app.mkdir()
    (app / "pyproject.toml").write_text(
        "[project]\nname = 'app'\n[tool.flwr.app.components]\n"
        "serverapp = 'planted:server'\nclientapp = 'planted:client'\n"
    )
    run = marker.parent / "run"
    write_recorded_text(run / "config.toml", tomli_w.dumps({"flower": {"app_dir": str(app)}}))
    code, output = atoll("resume", run)
    assert code == 2, output
    assert f"flower.app_dir = {str(app)!r}" in output
    assert not marker.exists()


@pytest.mark.parametrize("place", PLACES)
def test_a_dry_run_imports_nothing_and_says_what_a_run_would(place: str, marker: Path) -> None:
    tables = tables_of(**PLACES[place])
    sweep = marker.parent / "sweep.toml"
    sweep.write_text(tomli_w.dumps({**tables, "sweep": {"grid": {"run.seed": [0, 1]}}}))
    code, output = atoll("sweep", sweep, "--dry-run")
    assert code == 0, output
    assert "would import or reach: " in output
    assert "planted:" in output
    assert output.count("seed ") == 2
    assert not marker.exists()
    arena = marker.parent / "arena.toml"
    arena_tables = {
        "attacks": {"mine": {"name": "planted:Attack"}, "random-image": {}},
        "defenses": {"none": {}, "mod": {"client": {"mods": ["planted:mod"]}}},
    }
    capture = {"nodes": [1], "rounds": [1]}
    arena.write_text(tomli_w.dumps({**tables, "capture": capture, "arena": arena_tables}))
    code, output = atoll("arena", arena, "--dry-run")
    assert not marker.exists(), output
    if place not in ("data set", "inner model"):
        assert code == 0, output
        assert "would import or reach: arena.attacks.mine.name = 'planted:Attack'" in output


def test_a_dry_run_with_trust_checks_all(marker: Path) -> None:
    tables = tables_of(model={"name": "planted:net"}, strategy={"name": "planted:no_strategy"})
    sweep = marker.parent / "sweep.toml"
    sweep.write_text(tomli_w.dumps({**tables, "sweep": {"grid": {"run.seed": [0, 1]}}}))
    code, output = atoll("sweep", sweep, "--dry-run", "--trust-code")
    assert marker.exists()
    assert code == 2
    assert "expected a Flower Strategy" in output


def test_an_arenas_job_imports_what_the_arenas_file_names_only(marker: Path) -> None:
    run = write_run(marker.parent / "run", model={"name": "planted:net"})
    captures = tuple(run.glob("captures/*"))
    job = Job("key", captures, "random-image", {}, "naive", 0)
    place = load_dataset("digits").directory
    with pytest.raises(UntrustedCodeError, match="'planted:net'"):
        run_job(Conditions(place, code=frozenset()), job)
    other = uses_in({"model": {"name": "planted:net", "argument": 1}})
    with pytest.raises(UntrustedCodeError):
        run_job(Conditions(place, code=frozenset(other)), job)
    assert not marker.exists()
    known = uses_in({"model": {"name": "planted:net"}})
    assert run_job(Conditions(place, code=frozenset(known)), job).rows
    assert marker.exists()


def test_a_sweeps_trial_continues_as_the_sweep_says_and_not_its_directory(
    marker: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from atoll.platform.sweeps import trial_process

    place = write_run(marker.parent / "trial", finished=False, model={"name": "planted:net"})
    given: list[Experiment] = []

    def note_run(experiment: Experiment, **named: Any) -> None:
        assert named["resume"] is True
        assert named["out"] == place
        given.append(experiment)

    monkeypatch.setattr(trial_process, "run", note_run)
    tables = Experiment.from_dict(tables_of()).to_dict()
    assert trial_process.run_trial(tables, str(place), 1, [], MainCode({}, {})) is None
    assert [experiment.model.name for experiment in given] == ["linear"]
    assert not marker.exists()


def test_ones_own_run_needs_no_flag_and_another_module_of_its_name_does(
    marker: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = write_run(marker.parent / "run", model={"name": "planted:net"})
    # As 'atoll run' does with the user's own file.
    note(uses_in(Experiment.from_dict(tables_of(model={"name": "planted:net"})).to_dict()))
    code, output = atoll("doctor", *COMMANDS["doctor"](run))
    assert code == 1, output
    assert "cosine" in output
    assert marker.exists()
    marker.unlink()
    # The same run directory, in a folder that brings a module of that name along.
    theirs = marker.parent / "theirs"
    theirs.mkdir()
    (theirs / "planted.py").write_text((marker.parent / "planted.py").read_text())
    monkeypatch.delitem(sys.modules, "planted", raising=False)
    monkeypatch.setattr(sys, "path", [p for p in sys.path if p != str(marker.parent)])
    monkeypatch.chdir(theirs)
    code, output = atoll("doctor", *COMMANDS["doctor"](run))
    assert code == 2, output
    assert not marker.exists()


def test_other_arguments_of_ones_own_code_are_asked_about(marker: Path) -> None:
    note(uses_in({"model": {"name": "planted:net", "file": "mine"}}))
    run = write_run(marker.parent / "run", model={"name": "planted:net", "file": "theirs"})
    assert atoll("doctor", *COMMANDS["doctor"](run))[0] == 2
    assert not marker.exists()


@pytest.mark.parametrize("name", ["torch.hub:load", "subprocess:Popen", "os:system"])
def test_installed_code_that_is_not_atolls_is_refused_too(name: str, marker: Path) -> None:
    run = write_run(
        marker.parent / "run",
        model={"name": name, "repo_or_dir": "x", "args": ["touch", str(marker)]},
        client={"mods": [{"name": name, "command": f"touch {marker}"}]},
    )
    for command in ("attack", "doctor", "resume"):
        code, output = atoll(command, *COMMANDS[command](run))
        assert code == 2, output
        assert name in output
    assert not marker.exists()


def test_a_ray_that_a_run_directory_names_is_not_reached(marker: Path) -> None:
    run = write_run(
        marker.parent / "run",
        ray={"address": "ray://10.0.0.1:10001"},
        log={"mlflow": "http://10.0.0.1:5000"},
    )
    code, output = atoll("resume", run)
    assert code == 2
    assert "ray.address = 'ray://10.0.0.1:10001'" in output
    assert "log.mlflow = 'http://10.0.0.1:5000'" in output


def test_attributes_of_atolls_own_modules_are_not_all_atolls_own(marker: Path) -> None:
    run = write_run(
        marker.parent / "run",
        model={"name": "atoll.platform.cluster.connection:os.system", "command": f"touch {marker}"},
    )
    assert atoll("doctor", *COMMANDS["doctor"](run))[0] == 2


def plant_shadows(folder: Path) -> Path:
    """Plant modules with names of what is installed; return what they leave."""
    trace = folder / "shadowed"
    for name in ("torch", "safetensors", "typer", "rich", "pyarrow", "numpy", "ray", "flwr"):
        (folder / f"{name}.py").write_text(
            f"from pathlib import Path\nPath({str(trace)!r}).touch()\nraise SystemExit('shadow')\n"
        )
    return trace


def in_folder(
    folder: Path, *arguments: object, **environment: str
) -> subprocess.CompletedProcess[str]:
    given = {"PYTHONPATH": str(ROOT), "XDG_STATE_HOME": str(folder / "state"), **environment}
    return subprocess.run(
        [sys.executable, "-m", "atoll", *map(str, arguments)],
        cwd=folder,
        env={**os.environ, **given},
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )


@pytest.mark.slow
@pytest.mark.parametrize("command", ["doctor", "attack", "report"])
def test_nothing_in_the_current_folder_shadows_what_is_installed(
    command: str, tmp_path: Path
) -> None:
    run = write_run(tmp_path / "run")
    trace = plant_shadows(tmp_path)
    done = in_folder(tmp_path, command, *COMMANDS[command](run))
    assert not trace.exists(), done.stderr
    assert done.returncode == (1 if command == "doctor" else 0), done.stdout + done.stderr
    assert "error" not in done.stderr, done.stderr


@pytest.mark.ray
@pytest.mark.long
def test_the_workers_of_a_resumed_run_are_not_shadowed_either(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", finished=False)
    shutil.rmtree(run / "captures")
    trace = plant_shadows(tmp_path)
    # A folder of its own, so that no other Ray of this machine is taken for ours.
    done = in_folder(tmp_path, "resume", run, RAY_TMPDIR=tempfile.mkdtemp(prefix="r"))
    assert not trace.exists(), done.stderr
    assert done.returncode == 0, done.stdout + done.stderr
    assert (run / "result.json").exists()


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(("answer", "is_trusted"), [("y\n", True), ("n\n", False), ("\n", False)])
def test_a_person_at_a_terminal_is_shown_the_code_and_asked(
    answer: str, is_trusted: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown = io.StringIO()
    console = Console(file=shown, force_terminal=True, color_system=None, width=200)
    monkeypatch.setattr(terminal, "errors", console)
    monkeypatch.setattr(sys, "stdin", Terminal(answer))
    uses = uses_in({"model": {"name": "torch.hub:load", "repo_or_dir": "/theirs"}})
    assert terminal.who_is_trusted(False)(uses) is is_trusted
    assert "model.name = 'torch.hub:load'" in shown.getvalue()
    assert '"repo_or_dir": "/theirs"' in shown.getvalue()
    monkeypatch.setattr(sys, "stdin", io.StringIO(answer))
    assert terminal.who_is_trusted(False)(uses) is False


def test_the_errors_are_of_ours() -> None:
    assert issubclass(UntrustedCodeError, AtollError)
    assert UntrustedCodeError.exit_code == 2
