"""What is submitted as a Ray job, and what is refused before anything is sent."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest
from ray.runtime_env import RuntimeEnv
from typer.testing import CliRunner

from atoll.errors import AtollError, EngineError
from atoll.platform.cli.application import application
from atoll.platform.cli.submission import (
    RayJobs,
    Submission,
    entrypoint_resources,
    read_runtime_env,
)

RUN = '[run]\nname = "job"\n[data]\ndataset = "digits"\n'


@pytest.fixture
def work(tmp_path: Path) -> Path:
    (tmp_path / "experiments").mkdir()
    (tmp_path / "experiments" / "run.toml").write_text(RUN)
    (tmp_path / "sweep.toml").write_text(RUN + "[sweep.grid]\nrun.seed = [0, 1]\n")
    return tmp_path


def test_a_run_continues_when_it_is_submitted_again(work: Path) -> None:
    submission = Submission(
        work / "experiments" / "run.toml",
        out=Path("/shared/my runs/a"),
        overrides=["client.mods=['a b']", "ray.workers=3"],
        working_dir=work,
        python="/opt/atoll/bin/python",
    )
    assert shlex.split(submission.entrypoint()) == [
        *("/opt/atoll/bin/python", "-m", "atoll", "run", "experiments/run.toml"),
        *("--out", "/shared/my runs/a", "--resume"),
        *("--set", "client.mods=['a b']", "--set", "ray.workers=3"),
    ]


def test_a_sweep_continues_by_itself(work: Path) -> None:
    submission = Submission(work / "sweep.toml", out=Path("/shared/s"), working_dir=work)
    assert shlex.split(submission.entrypoint()) == [
        *("python", "-m", "atoll", "sweep", "sweep.toml", "--out", "/shared/s"),
    ]


def test_the_file_may_name_the_shared_folder(work: Path) -> None:
    (work / "run.toml").write_text('[run]\nname = "job"\nout = "/shared/runs"\n')
    submission = Submission(work / "run.toml", working_dir=work)
    assert "--out /shared/runs/job --resume" in submission.entrypoint()


def test_an_environment_keeps_its_keys_and_leaves_out_what_is_large(work: Path) -> None:
    (work / "env.yaml").write_text("env_vars: {A: '1'}\nexcludes: [/images]\n")
    environment = Submission(
        work / "sweep.toml", working_dir=work, runtime_env=work / "env.yaml"
    ).environment()
    assert environment["env_vars"] == {"A": "1"}
    assert environment["working_dir"] == str(work)
    assert {"/images", "/.git", "/.venv", "/runs"} <= set(environment["excludes"])
    RuntimeEnv(**environment)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"file": "none.toml"}, "no such file; expected an experiment file"),
        ({"out": Path("runs/a")}, "--out = 'runs/a': is relative to the job's working directory"),
        ({"out": None}, "run.out = 'runs': is relative to the job's working directory"),
        ({"working_dir": "experiments", "file": "sweep.toml"}, "is not below --working-dir"),
        ({"overrides": ["ray.address=x:1"]}, "ray.address = 'x:1': a job runs on the cluster"),
        ({"overrides": ["client.epoch=1"]}, "client.epoch = 1: no such key"),
    ],
)
def test_what_cannot_run_is_refused_before_anything_is_sent(
    work: Path, change: dict[str, object], message: str
) -> None:
    made: dict[str, object] = {"out": Path("/shared/a"), **change}
    made["file"] = work / str(made.get("file", "experiments/run.toml"))
    made["working_dir"] = work / str(made.get("working_dir", ""))
    with pytest.raises(AtollError) as caught:
        Submission(**made).entrypoint()  # type: ignore[arg-type]
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"a: [", "is not readable YAML"),
        (b"\xff\xfe\xfa", "is not readable YAML"),
        (b"[]", "holds list; expected a runtime environment's keys"),
        (b"pipp: [x]", "pipp is no key of a runtime environment; expected one of"),
        (b"!!python/object/apply:os.system ['true']", "is not readable YAML"),
    ],
)
def test_what_is_no_runtime_environment_is_a_clear_line(
    tmp_path: Path, content: bytes, message: str
) -> None:
    path = tmp_path / "env.yaml"
    path.write_bytes(content)
    with pytest.raises(AtollError) as caught:
        read_runtime_env(path)
    assert message in str(caught.value)
    with pytest.raises(AtollError, match="is not readable YAML"):
        read_runtime_env(tmp_path)


def test_the_entry_points_resources() -> None:
    assert entrypoint_resources(None, None, None, None) == {}
    assert entrypoint_resources(1.0, 0.5, 10, '{"spot": 1}') == {
        "entrypoint_num_cpus": 1.0,
        "entrypoint_num_gpus": 0.5,
        "entrypoint_memory": 10,
        "entrypoint_resources": {"spot": 1.0},
    }
    for text in ("{", "[1]", '{"spot": "x"}', "3", "[" * 5000):
        with pytest.raises(AtollError, match="expected a JSON object of numbers"):
            entrypoint_resources(None, None, None, text)


def test_where_no_ray_answers_is_a_clear_line(work: Path) -> None:
    with pytest.raises(EngineError, match="no Ray dashboard answers"):
        RayJobs("http://127.0.0.1:1")
    file = str(work / "experiments" / "run.toml")
    options = ("--working-dir", str(work), "--out", "/shared/a")
    done = CliRunner().invoke(application, ["submit", file, "--address", "nonsense", *options])
    assert done.exit_code == 1
    assert "error: --address = 'nonsense'" in done.stderr
