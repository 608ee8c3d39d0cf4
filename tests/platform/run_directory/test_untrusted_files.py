"""Run directories and captures from outside: nothing in them is unpickled or called."""

from __future__ import annotations

import hashlib
import io
import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flwr.app import ArrayRecord
from google.protobuf.message import DecodeError

from atoll.attacks.arena.result_store import JobStore
from atoll.attacks.captures.capture_files import read_capture, read_truth
from atoll.clients.data.files.dataset import Dataset
from atoll.clients.data.partitioning.partition import Partition
from atoll.errors import (
    AtollError,
    CaptureError,
    CorruptCheckpointError,
)
from atoll.flower import load_records
from atoll.platform.config.experiment import load_experiment
from atoll.platform.run_directory.checkpoint import Checkpoint, CheckpointStore
from atoll.platform.run_directory.identity import RunIdentity
from atoll.platform.run_directory.run_files import read_result, read_table
from atoll.platform.run_directory.state_tree import StateDecoder, StateEncoder
from tests.support.runs.code_process import in_a_process


@pytest.mark.slow
def test_a_checkpoint_is_read_without_unpickling_anything(tmp_path: Path) -> None:
    encoder = StateEncoder()
    tree = {
        "generator": encoder.value(np.random.default_rng(3), "generator"),
        "nested": encoder.value({"a": (1, np.ones(3)), 2: {"x"}, "b": b"bytes"}, "nested"),
    }
    arrays = ArrayRecord([np.arange(4.0), np.ones((2, 2), np.float32)])
    CheckpointStore(tmp_path).write(Checkpoint(1, arrays, tree, encoder.arrays, {1: b"", 2: b""}))
    code = f"""
        import sys
        import numpy as np
        from pathlib import Path
        from atoll.platform.run_directory.checkpoint import CheckpointStore
        from atoll.platform.run_directory.state_tree import StateDecoder

        def refuse(event, arguments):
            if event in ("pickle.find_class", "exec", "compile"):
                raise RuntimeError(f"{{event}} {{arguments}}")

        store = CheckpointStore(Path({str(tmp_path)!r}))
        import numpy.random
        StateDecoder({{}}).value({{"objects": [["dict", []]], "root": {{"ref": 0}}}})
        # Pydantic loads itself, and makes what it checks by, when it is first used.
        from typing import Any
        from atoll.files.reading import parse_json
        parse_json("{{}}", "", dict[str, str])
        parse_json("{{}}", "", dict[str, Any])
        sys.addaudithook(refuse)
        checkpoint = store.latest()
        decoder = StateDecoder(checkpoint.state_arrays)
        print(decoder.value(checkpoint.tree["generator"]).integers(1000))
        print(decoder.value(checkpoint.tree["nested"])["a"][1].sum())
    """
    drawn, total = in_a_process(code).split()
    assert int(drawn) == np.random.default_rng(3).integers(1000)
    assert float(total) == 3.0


class Planted:
    """Leaves a file where it is unpickled."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.trace,)


def test_a_pickle_in_a_run_directory_or_a_capture_is_never_run(tmp_path: Path) -> None:
    trace = tmp_path / "trace"
    code = pickle.dumps(Planted(trace))
    pickle.loads(code)
    assert trace.exists()
    trace.unlink()
    store, jobs = CheckpointStore(tmp_path / "checkpoints"), JobStore(tmp_path / "jobs")
    readers: dict[str, Callable[[], object]] = {
        "config.toml": lambda: load_experiment(tmp_path / "config.toml"),
        "identity.json": lambda: RunIdentity.read(tmp_path),
        "result.json": lambda: read_result(tmp_path),
        "rounds.parquet": lambda: read_table(tmp_path / "rounds.parquet"),
        "jobs/key/rows.parquet": lambda: jobs.rows("key"),
        "jobs/key/images.safetensors": lambda: jobs.images("key"),
        "capture/capture.json": lambda: read_capture(tmp_path / "capture"),
        "truth/truth.json": lambda: read_truth(tmp_path / "truth"),
        "dataset/dataset.json": lambda: Dataset(tmp_path / "dataset"),
        "partition/offsets.npy": lambda: Partition(tmp_path / "partition"),
    }
    for name, read in readers.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        for planted in (code, as_object_array(code)):
            path.write_bytes(planted)
            with pytest.raises(AtollError):
                read()
    (tmp_path / "capture/capture.json").write_text('{"format": 1}')
    (tmp_path / "capture/messages.safetensors").write_bytes(code)
    (tmp_path / "truth/truth.json").write_text('{"format": 1}')
    (tmp_path / "truth/truth.safetensors").write_bytes(code)
    for read in (readers["capture/capture.json"], readers["truth/truth.json"]):
        with pytest.raises(CaptureError, match="cannot be read"):
            read()
    names = ("arrays.safetensors", "state.safetensors", "clients.safetensors", "state.json")
    for name in names:
        store.write(Checkpoint(1, ArrayRecord([np.ones(2)]), {}, {}, {1: code}))
        folder = tmp_path / "checkpoints" / "round-000001"
        manifest = json.loads((folder / "manifest.json").read_text())
        assert set(manifest) == set(names)
        (folder / name).write_bytes(code)
        manifest[name] = hashlib.sha256(code).hexdigest()
        (folder / "manifest.json").write_text(json.dumps(manifest))
        with pytest.raises(CorruptCheckpointError):
            store.read(1)
    # A node's state is bytes of its own choosing.
    with pytest.raises(DecodeError):
        load_records(code)
    assert not trace.exists()


def as_object_array(code: bytes) -> bytes:
    """Return what ``numpy.save`` makes of an array of objects, whose pickle is ``code``."""
    file = io.BytesIO()
    np.save(file, np.array([None], object), allow_pickle=True)
    return file.getvalue().split(b"\n", 1)[0] + b"\n" + code


def test_a_checkpoint_names_no_function_to_call() -> None:
    objects = [["dict", [["bit_generator", "seed"]]], ["generator", {"ref": 0}]]
    with pytest.raises(ValueError, match="'seed' is no bit generator"):
        StateDecoder({}).value({"objects": objects, "root": {"ref": 1}})
