"""A user's own modules: found through what they import, and said when they change."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from atoll.platform.run_directory.identity import RunIdentity
from atoll.user_code.source_identity import references_in, source_hashes

FILES = {
    "own_app_x/__init__.py": "",
    "own_app_x/model.py": "import os\nfrom .parts import layer\nfrom own_width_x import WIDTH\n",
    "own_app_x/parts/__init__.py": "from . import layer\n",
    "own_app_x/parts/layer.py": "import own_app_x.model\n",
    "own_app_x/unused.py": "",
    "own_width_x.py": "WIDTH = 3\n",
}


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name, text in FILES.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    monkeypatch.syspath_prepend(str(tmp_path))
    return tmp_path


def test_references_are_found_wherever_they_are() -> None:
    tables = {
        "model": {"name": "own.model:build", "hidden": [8]},
        "client": {"mods": ["fixedclipping_mod", {"name": "own.mods:Mod"}]},
        "data": {"path": "C:\\somewhere", "dataset": "digits"},
        "ray": {"address": "127.0.0.1:6379"},
    }
    assert list(references_in(tables)) == ["own.model:build", "own.mods:Mod"]


@pytest.mark.slow
def test_modules_are_followed_as_far_as_they_lie_beside_each_other(root: Path) -> None:
    before = source_hashes(["own_app_x.model:build"])
    assert sorted(before) == [
        "own_app_x",
        "own_app_x.model",
        "own_app_x.parts",
        "own_app_x.parts.layer",
        "own_width_x",
    ]
    (root / "own_app_x" / "unused.py").write_text("x = 1")
    assert source_hashes(["own_app_x.model:build"]) == before
    (root / "own_width_x.py").write_text("WIDTH = 4")
    now = source_hashes(["own_app_x.model:build"])
    assert [name for name in now if now[name] != before[name]] == ["own_width_x"]


def test_what_has_no_source_of_the_users_is_left_out() -> None:
    assert source_hashes(["atoll.clients.models.mlp:Mlp", "no_such_module_x:f", "math:pi"]) == {}
    # Of what is installed, the named module alone: its version is not ours to follow.
    assert list(source_hashes(["numpy.linalg:norm"])) == ["numpy.linalg"]


@pytest.mark.slow
def test_a_change_is_said_when_the_run_continues(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    RunIdentity({}, code={"own": "aa", "other": "bb"}).write(tmp_path)
    with caplog.at_level(logging.WARNING, "atoll"):
        RunIdentity({}, code={"own": "cc", "other": "bb"}).check_same(tmp_path)
    [said] = [record.getMessage() for record in caplog.records]
    assert said.startswith("the module own was changed after the run began")
    # A run from before modules were noted says nothing of them.
    assert RunIdentity({}).changed_code({"own": "cc"}) == []
