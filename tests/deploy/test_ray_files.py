"""Files for "ray up" and "ray job submit", checked by Ray's own checks."""

from __future__ import annotations

import os
import re
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml
from ray.autoscaler._private.util import prepare_config, validate_config
from ray.runtime_env import RuntimeEnv
from ray.scripts import scripts as ray_commands

from atoll.platform.cli.submission import read_runtime_env
from tests.support.paths import ROOT

FOLDER = ROOT / "deploy" / "ray"
CLUSTERS = sorted(FOLDER.glob("cluster-*.yaml"))


def config_of(path: Path) -> dict[str, Any]:
    config: dict[str, Any] = yaml.safe_load(path.read_text())
    return config


@pytest.mark.parametrize("path", CLUSTERS, ids=lambda path: path.stem)
def test_a_cluster_file_passes_rays_schema(path: Path) -> None:
    config = config_of(path)
    prepared = prepare_config(config)
    validate_config(prepared)
    assert prepared["max_workers"] == config["max_workers"]


@pytest.mark.parametrize("path", CLUSTERS, ids=lambda path: path.stem)
def test_nodes_are_started_as_ray_takes_it_and_the_dashboard_stays_inside(
    path: Path, home: Path
) -> None:
    config = config_of(path)
    programs = home / "atoll" / ".venv" / "bin"
    for kind in ("head", "worker"):
        stop, start = config[f"{kind}_start_ray_commands"]
        assert run(stop, home) == [str(programs), "none", "stop"]
        first_in_path, mode, command, *arguments = run(start, home)
        assert mode == "token"
        # Jobs and workers find the programs of the environment that Ray is in.
        assert (first_in_path, command) == (str(programs), "start")
        parsed = ray_commands.start.make_context("start", arguments, resilient_parsing=True).params
        assert parsed["head"] == (kind == "head")
        if kind == "head":
            assert parsed["dashboard_host"] == "127.0.0.1"
            assert parsed["autoscaling_config"] == "~/ray_bootstrap_config.yaml"
        else:
            assert parsed["address"] == "10.0.0.1:6379"
    mounted = {Path(remote).name: local for remote, local in config["file_mounts"].items()}
    assert (ROOT / mounted.pop("requirements.lock")).exists()
    # What "ray get-auth-token --generate" writes, where Ray looks for it on every node.
    assert mounted == {"auth_token": "~/.ray/auth_token"}
    assert {Path(remote).parent.name for remote in config["file_mounts"]} == {"atoll", ".ray"}


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A home folder whose Ray says where it was found and what it was given."""
    programs = tmp_path / "atoll" / ".venv" / "bin"
    programs.mkdir(parents=True)
    ray = programs / "ray"
    ray.write_text(
        '#!/usr/bin/env bash\necho "${PATH%%:*} ${RAY_AUTH_MODE:-none}"\nprintf "%s\\n" "$@"\n'
    )
    ray.chmod(0o755)
    return tmp_path


def run(command: str, home: Path) -> list[str]:
    environment = {"HOME": str(home), "PATH": os.environ["PATH"], "RAY_HEAD_IP": "10.0.0.1"}
    done = subprocess.run(
        ["bash", "-c", command],
        env=environment,
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    return done.stdout.split()


@pytest.mark.parametrize("path", CLUSTERS, ids=lambda path: path.stem)
def test_an_old_python_is_refused_before_anything_is_installed(path: Path) -> None:
    protect, check, install = config_of(path)["setup_commands"]
    assert protect == "chmod 600 ~/.ray/auth_token"
    assert "-m venv" in install
    assert subprocess.run(["bash", "-c", check], check=False).returncode == 0
    old = check.replace("(3, 11)", "(9, 0)")
    done = subprocess.run(["bash", "-c", old], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (1, "Python 3.11 or later is needed\n")
    needed = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["requires-python"]
    assert needed == ">=3.11"


@pytest.mark.parametrize("path", CLUSTERS, ids=lambda path: path.stem)
def test_the_shell_understands_every_command(path: Path) -> None:
    for name, commands in config_of(path).items():
        for command in commands if name.endswith("_commands") else ():
            done = subprocess.run(["bash", "-n", "-c", command], capture_output=True, check=False)
            assert (done.returncode, done.stderr) == (0, b""), command


def test_the_heads_autoscaler_can_start_instances() -> None:
    config = config_of(FOLDER / "cluster-aws.yaml")
    assert any("boto3" in command for command in config["head_setup_commands"])
    images = {n: t["node_config"]["ImageId"] for n, t in config["available_node_types"].items()}
    assert images == {"head": "IMAGE-ID", "worker": "IMAGE-ID", "gpu-worker": "GPU-IMAGE-ID"}


def test_cloud_workers_are_spot_machines_and_the_head_has_no_clients() -> None:
    types = config_of(FOLDER / "cluster-aws.yaml")["available_node_types"]
    assert types["head"]["resources"] == {"CPU": 0}
    assert "InstanceMarketOptions" not in types["head"]["node_config"]
    for name in ("worker", "gpu-worker"):
        assert types[name]["node_config"]["InstanceMarketOptions"] == {"MarketType": "spot"}


def test_what_a_person_must_fill_in_is_named_in_the_head_of_the_file() -> None:
    for path in CLUSTERS:
        text = path.read_text()
        comment = "".join(line for line in text.splitlines(True) if line.startswith("#"))
        rest = text.removeprefix(comment)
        places = set(re.findall(r"\b[A-Z]+(?:-[A-Z0-9]+)+\b|\bHEAD\b|\bUSER\b", rest))
        assert places
        assert all(place in comment for place in places), places


def test_the_runtime_environment_is_one() -> None:
    found = read_runtime_env(FOLDER / "runtime_env.yaml")
    assert RuntimeEnv(**found)["env_vars"]["ATOLL_CACHE"] == "/shared/cache"
