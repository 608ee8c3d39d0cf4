"""A run directory with a file of every kind, and ways of changing them."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import tomli_w
import torch
from flwr.app import ArrayRecord
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from rich.console import Console

from atoll.attacks.arena.arena_job import JobResult
from atoll.attacks.arena.result_store import JobStore
from atoll.attacks.captures.capture_files import read_capture, read_truth
from atoll.errors import AtollError
from atoll.files.recorded import write_recorded_json, write_recorded_rows
from atoll.platform.cli.watching.watch import watch
from atoll.platform.run_directory.checkpoint import Checkpoint, CheckpointStore
from atoll.platform.run_directory.identity import RunIdentity
from atoll.platform.run_directory.run_files import (
    CLIENT_SCHEMA,
    read_config,
    read_confusion,
    read_engine,
    read_partition,
    read_result,
    read_rounds_table,
    read_table,
)
from atoll.platform.runs.layerwise.block_files import UnitFiles, UnitState
from atoll.platform.sweeps.trial_rows import SCHEMA, read_trials, stopped_row
from tests.support.runs.foreign_files import write_run

EXAMPLES = int(os.environ.get("ATOLL_FUZZ_EXAMPLES", "15"))
FUZZ = settings(
    max_examples=EXAMPLES,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)


@dataclass(frozen=True)
class Kind:
    """A kind of file: where it lies in the example, and how it is read."""

    path: str
    read: Callable[[Path], object]
    # Whether a manifest of the folder's has it; checkpoints have their own.
    has_manifest: bool = True


def plain(value: Any) -> Any:
    """Return what can be compared."""
    if isinstance(value, pa.Table):
        return value.schema.to_string(), value.to_pylist()
    if isinstance(value, torch.Tensor):
        return str(value.dtype), value.tolist()
    if isinstance(value, np.ndarray):
        return value.tolist()
    if isinstance(value, ArrayRecord):
        return {key: array.data for key, array in value.items()}
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if hasattr(value, "__dict__") and not isinstance(value, type):
        return {key: plain(item) for key, item in vars(value).items() if key != "directory"}
    return value


CAPTURE = "captures/round-000001-node-000001-train"
KINDS = {
    "config": Kind("config.toml", lambda d: read_config(d)),
    "engine": Kind("engine.json", lambda d: read_engine(d)),
    "result": Kind("result.json", lambda d: read_result(d)),
    "partition": Kind("partition.json", lambda d: read_partition(d)),
    "confusion": Kind("confusion.json", lambda d: read_confusion(d)),
    "identity": Kind("identity.json", lambda d: RunIdentity.read(d)),
    "rounds": Kind("rounds.parquet", lambda d: read_rounds_table(d / "rounds.parquet")),
    "clients": Kind(
        "clients.parquet", lambda d: read_table(d / "clients.parquet", needed=CLIENT_SCHEMA)
    ),
    "capture": Kind(f"{CAPTURE}/capture.json", lambda d: read_capture(d / CAPTURE)),
    "messages": Kind(f"{CAPTURE}/messages.safetensors", lambda d: read_capture(d / CAPTURE)),
    "truth": Kind(f"{CAPTURE}/truth.json", lambda d: read_truth(d / CAPTURE)),
    "true images": Kind(f"{CAPTURE}/truth.safetensors", lambda d: read_truth(d / CAPTURE)),
    "trials": Kind("sweep/trials.parquet", lambda d: read_trials(d / "sweep")),
    "stopped": Kind("stopped.json", stopped_row),
    "job's rows": Kind("jobs/key/rows.parquet", lambda d: JobStore(d / "jobs").rows("key")),
    "job's cost": Kind("jobs/key/seconds.parquet", lambda d: JobStore(d / "jobs").seconds("key")),
    "job's images": Kind(
        "jobs/key/images.safetensors", lambda d: JobStore(d / "jobs").images("key")
    ),
    **{
        f"checkpoint's {name}": Kind(
            f"checkpoints/round-000001/{name}",
            lambda d: CheckpointStore(d / "checkpoints").read(1),
            has_manifest=False,
        )
        for name in (
            "manifest.json",
            "state.json",
            "arrays.safetensors",
            "state.safetensors",
            "clients.safetensors",
        )
    },
    "part": Kind(
        "parts/block-1/epoch-000001.safetensors",
        lambda d: UnitFiles(d / "parts").read("block-1", 1),
        has_manifest=False,
    ),
}


def write_whole(folder: Path) -> Path:
    """Write a run directory with a file of every kind."""
    directory = write_run(folder / "run")
    RunIdentity({"run": {"rounds": 1}}, {"digits": "ab"}, {"python": "3"}).write(directory)
    write_recorded_json(directory / "confusion.json", {"round": 1, "counts": [[3, 0], [1, 4]]})
    row = {field.name: None for field in SCHEMA} | {
        "key": "k",
        "trial": "t",
        "method": "FedAvg",
        "hyperparameters": "{}",
        "status": "waiting",
        "directory": "trials/t",
        "of_rounds": 3,
        "metrics": "{}",
    }
    write_recorded_rows(directory / "sweep" / "trials.parquet", [row], SCHEMA)
    write_recorded_json(
        directory / "stopped.json",
        {"round": 2, "metric": "server_accuracy", "value": 0.5, "seconds": 1.0},
    )
    images = torch.rand(1, 1, 8, 8)
    figures = {"psnr": 1.0, "ssim": 0.5, "lpips": None, "mse": 0.1, "label_accuracy": 1.0}
    names = {"attack": "dlg", "threat": "-", "label_source": "given"}
    numbers = {"round": 1, "node_id": 1, "image": 0, "identified": True}
    result = JobResult([{**names, **numbers, **figures}], 2.5, (images, images + 1))
    JobStore(directory / "jobs").write("key", result, images=True)
    arrays = ArrayRecord([np.arange(4.0), np.ones((2, 2), np.float32)])
    tree = {"strategy": {"x": [1, {"array": "a"}]}, "metrics": {"loss": float("nan")}}
    CheckpointStore(directory / "checkpoints").write(
        Checkpoint(1, arrays, tree, {"a": np.ones(3)}, {1: b"state"})
    )
    module = {"weight": torch.ones(2, 2)}
    part = UnitState(1, module, {"step": 3, "moments": [torch.ones(2)]}, [{"loss": 1.0}])
    UnitFiles(directory / "parts").write("block-1", part)
    return directory


@st.composite
def damage(draw: Any) -> Callable[[bytes], bytes]:
    """A way of damaging a file's bytes."""
    how = draw(st.sampled_from(["flip", "flip", "cut", "empty", "insert", "nest", "double"]))
    at = draw(st.floats(0, 1, exclude_max=True))
    bit = draw(st.integers(0, 7))

    def change(content: bytes) -> bytes:
        place = int(at * len(content))
        if how == "flip":
            changed = bytearray(content)
            changed[place] ^= 1 << bit
            return bytes(changed)
        if how == "cut":
            return content[:place]
        if how == "insert":
            return content[:place] + bytes([bit]) + content[place:]
        if how == "double":
            return content[:place] + content
        return b"" if how == "empty" else b"[" * 100_000

    return change


def places(value: Any) -> Iterator[tuple[Any, Any]]:
    """Yield every container and key in a JSON value."""
    items = value.items() if isinstance(value, dict) else enumerate(value)
    for key, inner in list(items):
        yield value, key
        if isinstance(inner, dict | list):
            yield from places(inner)


def nested(depth: int) -> Any:
    value: Any = 1
    for _ in range(depth):
        value = [value]
    return value


ODD = [None, -1, 2**70, 1e308, "", "x\x1b[2J", "\ud800", [], {}, True, "planted:x", [[1]], 0.5]


@st.composite
def odd_value(draw: Any) -> Callable[[bytes], bytes]:
    """A way of changing JSON or TOML: a key is missing, or its value is an odd one."""
    which = draw(st.integers(0, 10_000))
    odd = draw(st.sampled_from([*ODD, "missing", "deep", "NaN"]))

    def change(content: bytes) -> bytes:
        import tomllib

        is_toml = content.startswith(b"[")
        value = tomllib.loads(content.decode()) if is_toml else json.loads(content)
        found = list(places(value))
        container, key = found[which % len(found)]
        if odd == "missing":
            del container[key]
        else:
            special = {"deep": nested(300), "NaN": float("nan")}
            container[key] = special.get(odd, odd) if isinstance(odd, str) else odd
        if not is_toml:
            return json.dumps(value).encode()
        try:
            return tomli_w.dumps(value).encode()
        except (TypeError, UnicodeEncodeError, RecursionError):
            return b"x = "

    return change


def refused(error: AtollError, path: Path) -> None:
    """Assert that an error is one line that names the file, or its folder."""
    text = str(error)
    assert len(text.splitlines()) == 1, text
    assert str(path) in text or str(path.parent) in text, text


def is_text(name: str) -> bool:
    return KINDS[name].path.endswith((".json", ".toml"))


def watch_once(directory: Path) -> None:
    watch(directory, Console(file=StringIO(), width=200), once=True)
