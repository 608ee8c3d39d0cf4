from pathlib import Path

import pytest
import torch

from atoll.errors import CorruptCheckpointError
from atoll.platform.runs.layerwise.block_files import UnitFiles, UnitState, sha256_of_module


def state(epoch: int = 3) -> UnitState:
    module = {
        "block.weight": torch.randn(2, 3, 4, 4).to(memory_format=torch.channels_last),
        "block.count": torch.tensor(7),
    }
    optimizer = {"steps": 9, "first": [torch.randn(5)], "second": [torch.randn(5)]}
    return UnitState(epoch, module, optimizer, [{"epoch": 1, "loss": 0.25}])


def test_a_state_comes_back_as_it_was(tmp_path: Path) -> None:
    files, written = UnitFiles(tmp_path), state()
    digest = files.write("block-01", written)
    read = files.read("block-01", 3)
    assert read.epoch == 3
    assert read.reports == written.reports
    assert all(torch.equal(read.module[key], value) for key, value in written.module.items())
    assert read.optimizer is not None
    assert read.optimizer["steps"] == 9
    assert torch.equal(read.optimizer["first"][0], written.optimizer["first"][0])
    assert files.sha256("block-01", 3) == digest
    assert sha256_of_module(read.module) == sha256_of_module(written.module)


def test_a_flipped_bit_is_found_and_the_state_before_is_used(tmp_path: Path) -> None:
    files = UnitFiles(tmp_path)
    for epoch in (1, 2):
        files.write("head", state(epoch))
    path = files.path("head", 2)
    data = bytearray(path.read_bytes())
    data[-3] ^= 4
    path.write_bytes(data)
    with pytest.raises(CorruptCheckpointError, match="epoch-000002.*not those of its hash"):
        files.read("head", 2)
    latest = files.latest("head")
    assert latest is not None
    assert latest.epoch == 1
    path.write_bytes(b"nothing")
    with pytest.raises(CorruptCheckpointError, match="cannot be read"):
        files.read("head", 2)


def test_pruning_keeps_what_is_needed_and_the_newest_two(tmp_path: Path) -> None:
    files = UnitFiles(tmp_path)
    for epoch in range(1, 7):
        files.write("cnn", state(epoch))
    files.prune("cnn", 3)
    assert files.epochs("cnn") == [3, 4, 5, 6]
    files.prune("cnn", 100)
    assert files.epochs("cnn") == [5, 6]
    assert files.latest("block-09") is None
