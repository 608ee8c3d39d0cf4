"""How a node tells whether it has the driver's data, and gets them where it does not."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from atoll.errors import DataUnavailableError
from atoll.platform.worker import node_data
from atoll.platform.worker.node_data import SMALL, DataFolder, NodeData

pytestmark = pytest.mark.usefixtures("cluster")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "data"
    made.mkdir()
    (made / "dataset.json").write_text('{"fingerprint": "one"}')
    (made / "train.arrow").write_bytes(bytes(range(256)) * 1000)
    (made / "empty").touch()
    return made


def test_what_is_there_is_not_sent(folder: Path) -> None:
    assert NodeData.of([folder]).bring() == 0


def test_what_is_not_there_is_sent_as_it_is_and_once(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = NodeData.of([folder])
    moved = folder.rename(folder.with_name("moved"))
    # The files are read from where they are now, in several blocks.
    monkeypatch.setattr(node_data, "BLOCK", 100_000)
    read = node_data.read_block
    monkeypatch.setattr(node_data, "read_block", lambda path, *at: read(moved / path.name, *at))
    contents = {file.name: file.read_bytes() for file in moved.iterdir()}
    assert data.bring() == sum(map(len, contents.values()))
    assert {file.name: file.read_bytes() for file in folder.iterdir()} == contents
    assert data.bring() == 0


def test_other_data_in_their_place_are_refused(folder: Path) -> None:
    data = NodeData.of([folder])
    (folder / "dataset.json").write_text('{"fingerprint": "two"}')
    with pytest.raises(DataUnavailableError, match="holds other data on this node"):
        data.bring()


def test_a_place_that_cannot_be_written_to_is_named(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    nowhere = tmp_path / "file" / "data"
    described = DataFolder.at(folder)
    home = NodeData.of([folder]).home
    lost = DataFolder(nowhere, described.sizes, described.sha256)
    with pytest.raises(DataUnavailableError, match=r"cannot be written on this node .*ATOLL_CACHE"):
        NodeData((lost,), home).bring()


def test_a_large_file_is_told_by_its_size_and_a_small_one_by_its_contents(folder: Path) -> None:
    before = DataFolder.at(folder)
    (folder / "train.arrow").write_bytes(bytes(SMALL + 1))
    assert DataFolder.at(folder) != before
    shutil.rmtree(folder)
    assert before.is_here() is False
