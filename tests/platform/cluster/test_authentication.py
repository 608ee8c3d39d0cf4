"""Tokens: a Ray that asks for one and a Ray that does not, and processes that have it or not."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from atoll.errors import EngineError, InvalidExperimentError
from atoll.platform.cluster import authentication
from tests.platform.cli.test_ray_job import free_port, wait_for_port
from tests.support.clusters.node_cluster import RAY
from tests.support.clusters.probing import environment_without_ray, found_by
from tests.support.paths import CLUSTERS

pytestmark = pytest.mark.ray

PROBE = CLUSTERS / "authentication_probe.py"
TOKEN = "a-token-of-the-tests" * 2


def start_head(folder: Path, **settings: str) -> tuple[subprocess.Popen[bytes], str]:
    port = free_port()
    options = ("--head", "--block", "--num-cpus", 1, "--port", port, "--no-monitor")
    options += ("--include-dashboard=false", "--dashboard-agent-listen-port", free_port())
    options += ("--ray-client-server-port", free_port())
    options += ("--node-ip-address", "127.0.0.1", "--object-store-memory", 100_000_000)
    environment = {**environment_without_ray(), **settings, "HOME": str(folder)}
    for name in ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"):
        environment.pop(name, None)
    process = subprocess.Popen(
        [sys.executable, str(RAY), "start", *map(str, options)],
        env=environment,
        start_new_session=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    wait_for_port(port)
    return process, f"127.0.0.1:{port}"


def stop(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    process.wait(60)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home folder with a token, as ``ray get-auth-token --generate`` leaves it."""
    folder = tmp_path_factory.mktemp("home")
    (folder / ".ray").mkdir()
    (folder / ".ray" / "auth_token").write_text(TOKEN)
    return folder


def asked(address: str, home: Path, **cases: dict[str, str]) -> dict[str, Any]:
    environment = {**environment_without_ray(), "HOME": str(home)}
    return found_by([sys.executable, PROBE, address, json.dumps(cases)], environment)


@pytest.fixture(scope="module")
def guarded(home: Path) -> Iterator[str]:
    """The address of a head that asks for the token."""
    process, address = start_head(home, RAY_AUTH_MODE="token")
    yield address
    stop(process)


@pytest.mark.long
def test_a_process_with_the_token_is_let_in_without_being_told_the_mode(
    guarded: str, home: Path
) -> None:
    found = asked(guarded, home, right={})
    assert found["right"] == "computed 2000000"
    assert found["right: left"] == {}


@pytest.mark.long
def test_a_process_without_the_right_token_is_told_so_in_one_line(
    guarded: str, tmp_path: Path
) -> None:
    found = asked(
        guarded,
        tmp_path,
        missing={},
        told_but_missing={"RAY_AUTH_MODE": "token"},
        wrong={"RAY_AUTH_TOKEN": "wrong"},
        disabled={"RAY_AUTH_MODE": "disabled"},
        unreadable={"RAY_AUTH_TOKEN_PATH": str(tmp_path / "none")},
        no_mode={"RAY_AUTH_MODE": "tokens"},
    )
    place = f"ray.address = {guarded!r}: this Ray "
    for case in ("missing", "told_but_missing"):
        assert found[case].startswith(f"{place}asks for a token; expected the head's token")
        assert "RAY_AUTH_TOKEN_PATH" in found[case]
    assert found["wrong"].startswith(f"{place}does not take the token of RAY_AUTH_TOKEN; expected")
    assert found["disabled"] == (
        f"{place}asks for a token, and RAY_AUTH_MODE = 'disabled'; expected RAY_AUTH_MODE = "
        "'token', or none"
    )
    assert found["unreadable"].startswith("RAY_AUTH_TOKEN_PATH = ")
    assert found["no_mode"] == "RAY_AUTH_MODE = 'tokens': expected 'token' or 'disabled'"
    assert all("\n" not in text for text in found.values() if isinstance(text, str))


@pytest.mark.long
def test_a_ray_without_tokens_is_used_unless_the_user_asks_for_tokens(home: Path) -> None:
    process, address = start_head(home, RAY_AUTH_MODE="disabled")
    try:
        # With a token at hand and its mode on, Ray would connect, and lose its workers.
        found = asked(address, home, token={"RAY_AUTH_MODE": "token"}, open={})
    finally:
        stop(process)
    assert found["token"].startswith(f"ray.address = {address!r}: this Ray asks for no token, and")
    assert found["open"] == "computed 2000000"
    assert found["open: left"] == {}


def test_a_ray_that_atoll_starts_has_a_token_that_nobody_else_knows(tmp_path: Path) -> None:
    environment = {**environment_without_ray(), "HOME": str(tmp_path)}
    for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"):
        environment.pop(name, None)
    script = (
        "import sys, ray; from atoll.platform.cluster.connection import Cluster;"
        "c = Cluster(cpus=1);"
        "print(ray.get_runtime_context().gcs_address, flush=True); sys.stdin.read(); c.close()"
    )
    driver = subprocess.Popen(
        [sys.executable, "-c", script],
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert driver.stdin is not None
    assert driver.stdout is not None
    address = driver.stdout.readline().strip()
    # Not through Ray, which would look for it at the machine's other address.
    other = (
        "import sys; from atoll.platform.cluster.authentication import agreed_with;"
        "agreed_with(*sys.argv[1:]).__enter__()"
    )
    said_to = {}
    try:
        for settings in ({}, {"RAY_AUTH_TOKEN": "guess"}):
            done = subprocess.run(
                [sys.executable, "-c", other, address, "here"],
                env=environment | settings,
                capture_output=True,
                text=True,
                check=False,
            )
            said_to[len(settings)] = done.stderr
    finally:
        _, said = driver.communicate()
    assert address, said
    assert "here: this Ray asks for a token" in said_to[0]
    assert "here: this Ray does not take the token of RAY_AUTH_TOKEN" in said_to[1]
    # Ray's own way would leave a file that every user of the machine can read.
    assert not (tmp_path / ".ray").exists()
    assert driver.returncode == 0
    assert said == ""


@pytest.mark.long
def test_a_process_is_as_it_was_when_its_own_ray_has_ended(tmp_path: Path) -> None:
    given = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "mine" * 8}
    found = asked("own", tmp_path, first={}, given=given)
    assert {found[name] for name in ("first", "given")} == {"computed 2000000"}
    assert found["first: left"] == {}
    assert found["given: left"] == given


def test_nothing_that_answers_is_an_error_after_some_seconds(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(authentication, "ANSWER_SECONDS", 1.0)
    monkeypatch.delenv("RAY_AUTH_MODE", raising=False)
    with pytest.raises(EngineError, match="no Ray answers"):
        authentication.agreed_with(f"127.0.0.1:{free_port()}", "here").__enter__()


def test_what_is_no_mode_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_AUTH_MODE", "on")
    with pytest.raises(InvalidExperimentError, match="RAY_AUTH_MODE = 'on'"):
        authentication.asked_mode()
