"""Run directories with a file of every kind: one that is never changed, and copies."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.runs.changed_files import (
    KINDS,
    plain,
    write_whole,
)


@pytest.fixture(scope="session")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run directory with a file of every kind, never changed."""
    return write_whole(tmp_path_factory.mktemp("whole"))


@pytest.fixture(scope="session")
def meaning(whole: Path) -> dict[str, str]:
    return {name: repr(plain(kind.read(whole))) for name, kind in KINDS.items()}


@pytest.fixture
def copy(whole: Path, tmp_path: Path) -> Iterator[Path]:
    place = tmp_path / "copy"
    shutil.copytree(whole, place)
    yield place
    shutil.rmtree(place)
