"""Files that are not what they were: each kind is flipped, cut, emptied, nested and bereft of keys.

With its manifest a file means what it meant, or is refused in a line that names it. Without one (as
files of earlier versions are) it has a shape that its readers can work with, or is refused so.
Hypothesis tries some dozens of each; ``ATOLL_FUZZ_EXAMPLES=10000`` tries more.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import tomli_w
import torch
from flwr.app import ArrayRecord
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from rich.console import Console

from atoll.attacks.arena.arena_job import JobResult
from atoll.attacks.arena.result_store import JobStore
from atoll.attacks.capture_validation.replay import diagnose_capture
from atoll.attacks.captures.capture_files import read_capture, read_truth
from atoll.errors import AtollError, RunDirectoryError
from atoll.files.recorded import write_recorded_json, write_recorded_rows
from atoll.platform.attack_runs.attack_run import run_attack
from atoll.platform.cli.watch import read_info, watch
from atoll.platform.reports.run_report import headline, write_report
from atoll.platform.run_directory.checkpoint import Checkpoint, CheckpointStore
from atoll.platform.run_directory.identity import RunIdentity
from atoll.platform.run_directory.ledger import Ledger
from atoll.platform.run_directory.run_config import load_run_config
from atoll.platform.run_directory.run_files import (
    CLIENT_SCHEMA,
    read_config,
    read_engine,
    read_partition,
    read_result,
    read_rounds_table,
    read_table,
)
from atoll.platform.runs.layerwise.block_files import PartFiles, PartState
from atoll.platform.sweeps.trials import SCHEMA, read_trials, stopped_row
from tests.support.paths import ROOT
from tests.support.runs.foreign_files import RESULT, write_run

EXAMPLES = int(os.environ.get("ATOLL_FUZZ_EXAMPLES", "15"))
FUZZ = settings(
    max_examples=EXAMPLES,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
pytestmark = pytest.mark.timeout(300 + 4 * EXAMPLES)


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
        lambda d: PartFiles(d / "parts").read("block-1", 1),
        has_manifest=False,
    ),
}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run directory with a file of every kind, never changed."""
    directory = write_run(tmp_path_factory.mktemp("whole") / "run")
    RunIdentity({"run": {"rounds": 1}}, {"digits": "ab"}, {"python": "3"}).write(directory)
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
    result = JobResult([{**names, **numbers, **figures}], 2.5, images, images + 1)
    JobStore(directory / "jobs").write("key", result, images=True)
    arrays = ArrayRecord([np.arange(4.0), np.ones((2, 2), np.float32)])
    tree = {"strategy": {"x": [1, {"array": "a"}]}, "metrics": {"loss": float("nan")}}
    CheckpointStore(directory / "checkpoints").write(
        Checkpoint(1, arrays, tree, {"a": np.ones(3)}, {1: b"state"})
    )
    module = {"weight": torch.ones(2, 2)}
    part = PartState(1, module, {"step": 3, "moments": [torch.ones(2)]}, [{"loss": 1.0}])
    PartFiles(directory / "parts").write("block-1", part)
    return directory


@pytest.fixture(scope="module")
def meaning(whole: Path) -> dict[str, str]:
    return {name: repr(plain(kind.read(whole))) for name, kind in KINDS.items()}


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


@pytest.fixture
def copy(whole: Path, tmp_path: Path) -> Iterator[Path]:
    place = tmp_path / "copy"
    shutil.copytree(whole, place)
    yield place
    shutil.rmtree(place)


def refused(error: AtollError, path: Path) -> None:
    """Assert that an error is one line that names the file, or its folder."""
    text = str(error)
    assert len(text.splitlines()) == 1, text
    assert str(path) in text or str(path.parent) in text, text


@pytest.mark.parametrize("name", KINDS)
@given(change=damage())
@FUZZ
def test_with_its_manifest_a_file_means_what_it_meant_or_is_refused(
    name: str, whole: Path, copy: Path, meaning: dict[str, str], change: Callable[[bytes], bytes]
) -> None:
    kind = KINDS[name]
    path, content = copy / kind.path, (whole / kind.path).read_bytes()
    path.write_bytes(change(content))
    try:
        assert repr(plain(kind.read(copy))) == meaning[name]
    except AtollError as error:
        refused(error, path)
    finally:
        path.write_bytes(content)


@pytest.mark.parametrize("folder", [".", CAPTURE, "sweep", "jobs/key"])
@given(change=damage())
@FUZZ
def test_a_changed_manifest_is_refused_or_changes_nothing(
    folder: str, whole: Path, copy: Path, meaning: dict[str, str], change: Callable[[bytes], bytes]
) -> None:
    path = copy / folder / "manifest.json"
    content = (whole / folder / "manifest.json").read_bytes()
    path.write_bytes(change(content))
    try:
        for name, kind in KINDS.items():
            if (copy / kind.path).parent == path.parent:
                assert repr(plain(kind.read(copy))) == meaning[name]
    except AtollError as error:
        refused(error, path)
    finally:
        path.write_bytes(content)


def is_text(name: str) -> bool:
    return KINDS[name].path.endswith((".json", ".toml"))


@pytest.mark.parametrize("name", [name for name, kind in KINDS.items() if kind.has_manifest])
@given(data=st.data())
@FUZZ
def test_without_a_manifest_a_file_has_a_usable_shape_or_is_refused(
    name: str, whole: Path, copy: Path, data: st.DataObject
) -> None:
    kind = KINDS[name]
    path, content = copy / kind.path, (whole / kind.path).read_bytes()
    (path.parent / "manifest.json").unlink(missing_ok=True)
    change = data.draw(damage() | odd_value() if is_text(name) else damage())
    path.write_bytes(change(content))
    try:
        kind.read(copy)
        if name == "config":
            load_run_config(copy)
        if name in ("config", "engine"):
            read_info(copy)
        if name in ("capture", "messages", "truth", "true images"):
            diagnose_capture(copy / CAPTURE)
    except AtollError as error:
        if name != "config":
            refused(error, path)
    finally:
        path.write_bytes(content)


SHOWN = ("config", "engine", "result", "partition", "rounds", "clients")


@pytest.mark.parametrize("name", SHOWN)
@given(data=st.data())
@settings(FUZZ, max_examples=max(5, EXAMPLES // 5))
def test_report_and_watch_end_with_nothing_but_an_error_of_ours(
    name: str, whole: Path, copy: Path, data: st.DataObject
) -> None:
    kind = KINDS[name]
    path, content = copy / kind.path, (whole / kind.path).read_bytes()
    (copy / "manifest.json").unlink(missing_ok=True)
    change = data.draw(odd_value() | damage() if is_text(name) else damage())
    path.write_bytes(change(content))
    try:
        for show in (write_report, headline, watch_once):
            try:
                show(copy)
            except AtollError as error:
                refused(error, path)
    finally:
        path.write_bytes(content)


def watch_once(directory: Path) -> None:
    watch(directory, Console(file=StringIO(), width=200), once=True)


# --- what a person does --------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["config.toml", "result.json"])
@pytest.mark.parametrize("how", ["changed", "emptied", "missing"])
def test_report_and_watch_say_that_a_file_is_not_what_was_written(
    name: str, how: str, copy: Path
) -> None:
    path = copy / name
    if how == "changed":
        text = path.read_text()
        path.write_text(text.replace("0.5", "0.9") if "0.5" in text else text.replace("1", "2", 1))
        assert path.read_text() != text
    elif how == "emptied":
        path.write_text("")
    else:
        path.unlink()
    for show in (write_report, watch_once):
        with pytest.raises(RunDirectoryError) as error:
            show(copy)
        if (name, how) != ("config.toml", "missing"):
            refused(error.value, path)


def test_an_attack_on_an_emptied_configuration_ends_at_once(copy: Path) -> None:
    (copy / "config.toml").write_text("")
    for _ in range(2):
        with pytest.raises(RunDirectoryError, match=r"config\.toml: "):
            run_attack(copy, "random-image", lpips=False)
        # As a run of before there were manifests.
        (copy / "manifest.json").unlink(missing_ok=True)


def test_an_attack_on_a_configuration_of_other_images_is_refused(copy: Path) -> None:
    (copy / "manifest.json").unlink()
    about = copy / CAPTURE / "capture.json"
    (about.parent / "manifest.json").unlink()
    text = json.loads(about.read_text())
    text["federation"]["image_shape"] = [1, 28, 28]
    about.write_text(json.dumps(text))
    truth = about.parent / "truth.safetensors"
    assert truth.exists()
    with pytest.raises(AtollError, match=r"round-000001-node-000001-train: "):
        run_attack(copy, "random-image", lpips=False)


def test_a_pipe_or_a_device_in_the_place_of_a_file_is_not_waited_for(copy: Path) -> None:
    for name in ("config.toml", "result.json", "engine.json", f"{CAPTURE}/capture.json"):
        path = copy / name
        path.unlink()
        os.mkfifo(path)
    for read in (read_config, read_result, read_engine, lambda d: read_capture(d / CAPTURE)):
        with pytest.raises(AtollError, match="no regular file"):
            read(copy)
    (copy / "result.json").unlink()
    (copy / "result.json").symlink_to("/dev/zero")
    with pytest.raises(RunDirectoryError, match="no regular file"):
        read_result(copy)


def test_a_table_with_foreign_or_broken_columns_is_refused_by_name(copy: Path) -> None:
    (copy / "manifest.json").unlink()
    path = copy / "rounds.parquet"
    table = pq.read_table(path)
    content = path.read_bytes()
    for changed, problem in (
        (table.rename_columns(["runde", *table.column_names[1:]]), "has 0 columns 'round'"),
        (table.set_column(0, "round", pa.array(["1"])), "'round' is of string; expected int64"),
        (table.set_column(0, "round", pa.array([None], pa.int64())), "'round' has gaps"),
        (
            table.append_column("server_accuracy_x", pa.array(["high"])),
            "'server_accuracy_x' is of string; expected numbers",
        ),
    ):
        pq.write_table(changed, path)
        for show in (write_report, watch_once):
            with pytest.raises(RunDirectoryError, match=rf"rounds\.parquet: .*{problem}"):
                show(copy)
    broken = content.replace(b"server_accuracy", b"server_\xff\xfeccuracy")
    assert broken != content
    path.write_bytes(broken)
    for show in (write_report, watch_once):
        with pytest.raises(RunDirectoryError, match=r"rounds\.parquet: cannot be read"):
            show(copy)


# --- what is legitimately written ----------------------------------------------------------------


def test_a_running_run_can_be_read_at_any_moment(tmp_path: Path) -> None:
    """A reader in another process never takes a file that is being replaced for a changed one."""
    import subprocess
    import sys

    directory = write_run(tmp_path / "run", finished=False)
    code = f"""
        from pathlib import Path
        from atoll.files.recorded import write_recorded_json, remove_recorded
        from tests.support.runs.foreign_files import RESULT
        from atoll.platform.run_directory.ledger import Ledger
        directory = Path({str(directory)!r})
        print("begun", flush=True)
        for number in range(150):
            write_recorded_json(directory / "engine.json", {{
                "workers": number, "clients": 2, "parameters": 650, "strategy": "FedAvg",
                "num_rounds": 1, "notes": [],
            }})
            if number % 10 == 0:
                ledger = Ledger.reopen(directory, 1)
                ledger.write_result({{**RESULT, "rounds": 1, "wall_seconds": float(number)}})
    """
    import textwrap

    writer = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(code)],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        text=True,
    )
    assert writer.stdout is not None
    assert writer.stdout.readline() == "begun\n"
    reads = 0
    while writer.poll() is None:
        engine, result = read_engine(directory), read_result(directory)
        assert engine is not None
        assert result is None or result["rounds"] == 1
        assert len(read_rounds_table(directory / "rounds.parquet")) == 1
        reads += 1
    assert writer.returncode == 0
    assert reads > 10


def test_a_kill_between_manifest_and_file_leaves_a_readable_run(
    copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(self: Path, target: Path) -> Path:
        if target.name != "manifest.json":
            raise KeyboardInterrupt
        return real(self, target)

    real = Path.replace
    before = read_engine(copy)
    monkeypatch.setattr(Path, "replace", killed)
    with pytest.raises(KeyboardInterrupt):
        write_recorded_json(copy / "engine.json", {"workers": 9})
    with pytest.raises(KeyboardInterrupt):
        write_recorded_json(copy / "new.json", {})
    monkeypatch.undo()
    assert read_engine(copy) == before
    Ledger.reopen(copy, 1).write_result(RESULT)
    write_report(copy)


def test_a_run_that_goes_on_is_sealed_anew_and_one_of_before_is_adopted(copy: Path) -> None:
    for has_manifest in (True, False):
        if not has_manifest:
            (copy / "manifest.json").unlink()
        ledger = Ledger.reopen(copy, 1)
        assert read_result(copy) is None
        ledger.close()
        sealed = json.loads((copy / "manifest.json").read_text())["files"]
        assert {"config.toml", "engine.json", "rounds.parquet", "clients.parquet"} <= set(sealed)
        ledger.write_result(RESULT)
        write_report(copy)
        path = copy / "clients.parquet"
        content = path.read_bytes()
        path.write_bytes(content[:-9] + bytes([content[-9] ^ 1]) + content[-8:])
        with pytest.raises(RunDirectoryError, match=r"clients\.parquet: is not what was written"):
            write_report(copy)
        path.write_bytes(content)


def test_while_it_grows_a_tables_pages_are_checked(tmp_path: Path) -> None:
    directory = write_run(tmp_path / "run", finished=False)
    Ledger.reopen(directory, 1)
    path = directory / "rounds.parquet"
    names = json.loads((directory / "manifest.json").read_text())["files"]
    assert "rounds.parquet" not in names
    content = path.read_bytes()
    value = np.float64(0.5).tobytes()
    place = content.index(value)
    path.write_bytes(content[:place] + np.float64(0.75).tobytes() + content[place + 8 :])
    with pytest.raises(RunDirectoryError, match=r"rounds\.parquet: cannot be read .*CRC"):
        read_rounds_table(path)
