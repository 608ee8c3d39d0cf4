"""Atomic files and folders: whole or not at all, whatever ends the block that writes them."""

from __future__ import annotations

from pathlib import Path

import pytest

from atoll.errors import DataUnavailableError, RunDirectoryError
from atoll.files.atomic import (
    appearing,
    atomic_file,
    atomic_folder,
    remove_partial_folders,
    replacing,
)


def fill(folder: Path, text: str) -> None:
    (folder / "a.txt").write_text(text)


def test_a_file_is_as_it_was_if_the_block_ends_with_an_error(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "file.txt"
    with atomic_file(path) as partial:
        partial.write_text("first")
        assert not path.exists()
    with pytest.raises(KeyboardInterrupt), atomic_file(path, sync=False) as partial:
        partial.write_text("second")
        raise KeyboardInterrupt
    assert path.read_text() == "first"
    assert list(path.parent.iterdir()) == [path]


def test_a_folder_that_is_there_stays_or_is_replaced(tmp_path: Path) -> None:
    target = tmp_path / "folder"
    for text, replaces, expected in (
        ("first", False, "first"),
        ("second", False, "first"),
        ("third", True, "third"),
    ):
        with atomic_folder(target, replaces=replaces) as partial:
            fill(partial, text)
        assert (target / "a.txt").read_text() == expected
    with pytest.raises(KeyboardInterrupt), atomic_folder(target, replaces=True) as partial:
        fill(partial, "fourth")
        raise KeyboardInterrupt
    assert (target / "a.txt").read_text() == "third"
    assert list(tmp_path.iterdir()) == [target]


def test_what_killed_processes_left_is_removed(tmp_path: Path) -> None:
    (tmp_path / "inner" / ".partial-round-000001-abc").mkdir(parents=True)
    (tmp_path / "inner" / ".partial-0123").write_text("")
    (tmp_path / "inner" / "round-000001").mkdir()
    remove_partial_folders(tmp_path)
    assert [path.name for path in (tmp_path / "inner").iterdir()] == ["round-000001"]


def test_errors_name_the_target_and_what_is_kept(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("kept")
    with pytest.raises(DataUnavailableError, match="file/data: cannot be written"):
        with appearing(tmp_path / "file" / "data"):
            pass
    with pytest.raises(RunDirectoryError, match="cannot be written .*; what was there before is"):
        with replacing(tmp_path / "file"):
            raise OSError(28, "No space left on device")
    assert (tmp_path / "file").read_text() == "kept"
