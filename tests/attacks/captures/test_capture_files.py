"""Captures on disk."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from atoll.attacks.captures.capture import Capture
from atoll.attacks.captures.capture_files import (
    CAPTURES,
    capture_name,
    find_captures,
    read_capture,
    read_truth,
    write_capture,
)
from atoll.errors import CaptureError
from tests.support.attacks.real_updates import client_update


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    capture, truth = client_update({"name": "mlp", "hidden": [4]}, {"batch_size": 2}, [0, 1, 2])
    directory = tmp_path / CAPTURES / capture_name(1, 1, "train")
    write_capture(capture, truth, directory)
    return directory


def test_what_is_written_is_read(folder: Path) -> None:
    capture, truth = client_update({"name": "mlp", "hidden": [4]}, {"batch_size": 2}, [0, 1, 2])
    found, found_truth = read_capture(folder), read_truth(folder)
    assert found.federation == capture.federation
    assert (found.sent.values, found.reply.values) == (capture.sent.values, capture.reply.values)
    for read, written in ((found.broadcast, capture.broadcast), (found.update, capture.update)):
        assert list(read) == list(written)
        assert all(torch.equal(read[key], written[key]) for key in written)
    assert torch.equal(found_truth.pixels, truth.pixels)
    assert torch.equal(found_truth.labels, truth.labels)
    assert [b.tolist() for b in found_truth.batches] == [b.tolist() for b in truth.batches]
    assert found_truth.seed == truth.seed
    assert find_captures(folder.parents[1]) == [folder]


def _change(folder: Path, **changes: object) -> Path:
    """Change a capture as it was made before there were manifests."""
    (folder / "manifest.json").unlink(missing_ok=True)
    about = json.loads((folder / "capture.json").read_text())
    (folder / "capture.json").write_text(json.dumps({**about, **changes}))
    return folder


def test_what_is_not_a_capture_is_refused(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(CaptureError, match=r"is not a capture \(it has no capture\.json\)"):
        read_capture(tmp_path)
    with pytest.raises(CaptureError, match="has no captures of 'query.moments' messages"):
        find_captures(folder.parents[1], "query.moments")
    with pytest.raises(
        CaptureError, match=r"capture\.json: cannot be read \(format = 99; expected 1 or 2\)"
    ):
        read_capture(_change(folder, format=99))
    federation = json.loads((folder / "capture.json").read_text())["federation"]
    for key in ("mean", "std"):
        with pytest.raises(CaptureError, match=rf"{key} = .*: expected a number for each of 1 ch"):
            inputs = {**federation["inputs"], key: [0.1, 0.2, 0.3]}
            read_capture(_change(folder, format=2, federation={**federation, "inputs": inputs}))
    with pytest.raises(CaptureError, match=r"capture's \(it has no 'sent/arrays/x'\)"):
        read_capture(_change(folder, format=2, arrays=["sent/arrays/x"]))
    (folder / "messages.safetensors").write_bytes(b"not safetensors")
    with pytest.raises(CaptureError, match=r"messages\.safetensors: cannot be read"):
        read_capture(folder)
    (folder / "truth.json").unlink()
    with pytest.raises(CaptureError, match=r"is not a capture with its truth"):
        read_truth(folder)


@pytest.mark.slow
def test_a_flipped_bit_anywhere_in_a_capture_is_told(folder: Path) -> None:
    for name, read in (
        ("capture.json", read_capture),
        ("messages.safetensors", read_capture),
        ("truth.json", read_truth),
        ("truth.safetensors", read_truth),
    ):
        path = folder / name
        whole = path.read_bytes()
        for place in range(0, len(whole), max(1, len(whole) // 23)):
            changed = bytearray(whole)
            changed[place] ^= 1
            path.write_bytes(changed)
            with pytest.raises(CaptureError, match=rf"{name}: is not what was written"):
                read(folder)
        path.write_bytes(whole)
        read(folder)


def test_a_capture_that_lacks_a_file_is_not_left_out(folder: Path) -> None:
    (folder / "capture.json").unlink()
    (folder.parent / f".{folder.name}-killed").mkdir()
    (folder.parent / f".{folder.name}-killed" / "capture.json").write_text("{}")
    [found] = find_captures(folder.parents[1])
    with pytest.raises(CaptureError, match=r"it has no capture\.json"):
        read_capture(found)


def test_a_capture_without_a_manifest_is_read_and_that_is_said_once(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (folder / "manifest.json").unlink()
    with caplog.at_level("WARNING", "atoll"):
        read_capture(folder)
        read_truth(folder)
    assert [r.getMessage() for r in caplog.records] == [
        f"{folder}: without a manifest: not verified"
    ]


def test_a_reply_that_does_not_say_how_many_examples_it_is_of_is_refused(folder: Path) -> None:
    capture: Capture = read_capture(_change(folder, reply={"metrics": {"loss": 1.0}}))
    with pytest.raises(CaptureError, match="num-examples is None; expected at least 1"):
        _ = capture.examples
