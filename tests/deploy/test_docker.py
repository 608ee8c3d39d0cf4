"""Docker files: what they copy is there, what they run is a command, and what they publish is not.

There is no Docker daemon in CI; deploy/README.md says what was built where.
"""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from typing import Any

import click
import pytest
import yaml
from ray.scripts import scripts as ray_commands
from typer.main import get_command

from atoll.platform.cli.application import application
from tests.support.paths import ROOT

FOLDER = ROOT / "deploy" / "docker"
DOCKERFILE = (FOLDER / "Dockerfile").read_text().replace("\\\n", " ")
COMPOSE: dict[str, Any] = yaml.safe_load((FOLDER / "compose.yaml").read_text())
GPU: dict[str, Any] = yaml.safe_load((FOLDER / "compose.gpu.yaml").read_text())


def with_defaults(text: str) -> str:
    """Put in the defaults of ${NAME:-default}, as Compose does where a variable is not set."""
    return re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", text)


def test_what_is_copied_is_there_and_sent_to_the_builder() -> None:
    sent = {
        line[1:]
        for line in (FOLDER / "Dockerfile.dockerignore").read_text().splitlines()
        if line.startswith("!")
    }
    copied = set()
    for line in re.findall(r"^COPY (.+)$", DOCKERFILE, flags=re.MULTILINE):
        copied |= {Path(source).name for source in line.split()[:-1]}
    assert copied == sent
    assert all((ROOT / name).exists() for name in copied)


def test_stages_build_on_each_other_and_images_have_plain_names() -> None:
    stages: set[str] = set()
    arguments = dict(re.findall(r"^ARG (\w+_IMAGE)=(\S+)$", DOCKERFILE, flags=re.MULTILINE))
    for base, name in re.findall(r"^FROM (\S+) AS (\S+)$", DOCKERFILE, flags=re.MULTILINE):
        if base.startswith("$"):
            image = arguments[base.strip("${}")]
            # A part with a dot before the first slash would be a registry's host.
            assert "." not in image.partition("/")[0] or "/" not in image
        else:
            assert base in stages
        stages.add(name)
    assert {"cpu", "cuda"} <= stages


def test_both_images_hold_the_same() -> None:
    stages = {
        name: DOCKERFILE.split(f"-packages AS {name}\n")[1].partition("\nFROM ")[0].strip()
        for name in ("cpu", "cuda")
    }
    assert stages["cpu"] == stages["cuda"]
    assert "USER ray" in stages["cpu"]


def test_only_the_dashboard_is_published_and_on_loopback_only() -> None:
    published = {name: service.get("ports", []) for name, service in COMPOSE["services"].items()}
    assert published.pop("head") == ["127.0.0.1:8265:8265"]
    assert not any(published.values())


def test_every_container_has_the_token_that_the_first_makes(tmp_path: Path) -> None:
    for name, service in COMPOSE["services"].items():
        settings = service["environment"]
        assert settings["RAY_AUTH_MODE"] == "token", name
        [folder] = [v.partition(":")[2] for v in service["volumes"] if v.startswith("token:")]
        assert settings["RAY_AUTH_TOKEN_PATH"] == f"{folder}/auth_token"
    shell, option, script = COMPOSE["services"]["shared"]["command"]
    local = script.replace("/token", str(tmp_path)).replace("chown ray /shared", "ls")
    tokens = []
    for _ in range(2):
        subprocess.run([shell, option, local], check=True)
        tokens.append((tmp_path / "auth_token").read_text())
    assert len(tokens[0].strip()) == 64
    assert tokens[0] == tokens[1]
    assert (tmp_path / "auth_token").stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("name", ["head", "worker"])
def test_nodes_are_started_as_ray_takes_it(name: str) -> None:
    program, command, *arguments = map(with_defaults, COMPOSE["services"][name]["command"])
    assert (program, command) == ("ray", "start")
    parsed = ray_commands.start.make_context("start", arguments, resilient_parsing=True).params
    assert parsed["block"]
    assert parsed["head"] == (name == "head")


def test_the_run_is_submitted_as_our_command_line_takes_it() -> None:
    program, command, *arguments = map(with_defaults, COMPOSE["services"]["submit"]["command"])
    assert (program, command) == ("atoll", "submit")
    group: Any = get_command(application)
    parsed = (
        group.get_command(click.Context(group), "submit").make_context("submit", arguments).params
    )
    assert parsed["address"] == "http://head:8265"
    assert parsed["out"] == "/shared/runs/quickstart" or parsed["out"].is_absolute()
    assert (ROOT / parsed["file"]).exists()


def test_services_share_what_must_outlive_them() -> None:
    for service in COMPOSE["services"].values():
        assert service["volumes"] == ["shared:/shared", "token:/token"]
    assert set(COMPOSE["volumes"]) == {"shared", "token"}
    assert "ATOLL_CACHE=/shared/cache" in DOCKERFILE
    assert set(GPU["services"]) <= set(COMPOSE["services"])


@pytest.mark.parametrize(("files", "target"), [((COMPOSE,), "cpu"), ((COMPOSE, GPU), "cuda")])
def test_every_service_runs_the_image_that_is_built(files: Any, target: str) -> None:
    services: dict[str, dict[str, Any]] = {}
    for file in files:
        for name, service in file["services"].items():
            services[name] = services.get(name, {}) | service
    images = {with_defaults(service["image"]) for service in services.values()}
    assert images == {f"atoll:{target}"}
    assert services["shared"]["build"]["target"] == target
    assert f" AS {target}\n" in DOCKERFILE
    # Nothing else builds; the others wait for it.
    assert [name for name, service in services.items() if "build" in service] == ["shared"]


def test_a_run_in_a_container_may_write_where_it_starts() -> None:
    assert "WORKDIR /app" in DOCKERFILE
    assert re.search(r"install --directory --owner ray /shared /app\b", DOCKERFILE)
