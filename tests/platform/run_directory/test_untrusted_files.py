"""What comes from outside: no server that outsiders reach, no code in files, no odd file or reply
that ends a run with anything but an error of ours.

Hypothesis tries some hundreds of examples; ``ATOLL_FUZZ_EXAMPLES=10000`` tries more of each kind.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import pickle
import subprocess
import sys
import tempfile
import textwrap
import typing
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tomli_w
from flwr.app import ArrayRecord
from google.protobuf.message import DecodeError
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from atoll.attacks.arena.result_store import JobStore
from atoll.attacks.captures.capture_files import read_capture, read_truth
from atoll.clients.data.image_dataset import ImageDataset
from atoll.clients.data.partitioning.partition import Partition
from atoll.errors import (
    AtollError,
    CaptureError,
    CorruptCheckpointError,
    InvalidExperimentError,
)
from atoll.flower import load_records
from atoll.platform.arenas.arena_plan import load_arena
from atoll.platform.config.experiment import Experiment, load_experiment
from atoll.platform.run_directory.checkpoint import Checkpoint, CheckpointStore
from atoll.platform.run_directory.identity import RunIdentity
from atoll.platform.run_directory.run_files import read_result, read_table
from atoll.platform.run_directory.state_tree import StateDecoder, StateEncoder
from atoll.platform.runs.federation import check
from atoll.platform.sweeps.sweep_plan import load_sweep
from tests.support.paths import ROOT

EXAMPLES = int(os.environ.get("ATOLL_FUZZ_EXAMPLES", "60"))
FUZZ = settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=[HealthCheck.too_slow])
pytestmark = pytest.mark.timeout(300 + EXAMPLES)
READY = [path.read_bytes() for path in sorted((ROOT / "experiments").glob("*.toml"))]


def in_a_process(code: str, **environment: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)],
        env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
        capture_output=True,
        text=True,
        timeout=250,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.ray
def test_a_run_listens_on_loopback_only() -> None:
    code = """
        import os, psutil, tempfile
        os.environ.pop("RAY_ADDRESS", None)
        from pathlib import Path
        from atoll.platform.config.experiment import Experiment
        from atoll.platform.runs.federation_run import run

        def look(record):
            found = set()
            for process in [psutil.Process(), *psutil.Process().children(recursive=True)]:
                for connection in process.net_connections(kind="inet"):
                    if connection.status == psutil.CONN_LISTEN:
                        found.add(f"{connection.laddr.ip} {process.name()}")
            print("LISTENS", *sorted(found), sep=";")

        tables = {
            "run": {"rounds": 1},
            "data": {"dataset": "digits", "clients": 2},
            "model": {"name": "linear"},
            "ray": {"workers": 1},
        }
        with tempfile.TemporaryDirectory() as folder:
            run(Experiment.from_dict(tables), out=Path(folder) / "run", callbacks=[look])
    """
    # A folder of its own, so that no other Ray of this machine is taken for ours.
    output = in_a_process(code, RAY_TMPDIR=tempfile.mkdtemp(prefix="r"))
    [line] = [line for line in output.splitlines() if line.startswith("LISTENS")]
    servers = line.split(";")[1:]
    loopback = ("127.0.0.1 ", "::1 ", "::ffff:127.0.0.1 ")
    assert servers
    assert [server for server in servers if not server.startswith(loopback)] == []


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
        "dataset/dataset.json": lambda: ImageDataset(tmp_path / "dataset"),
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


# --- experiment files ----------------------------------------------------------------------------

HUGE = st.sampled_from(
    [2**63, -(2**63), 2**64, 10**400, -(10**30), 1e308, -1e308, 5e-324, float("nan"), float("inf")]
)


def names_of_section(annotation: Any) -> set[str]:
    """Return the keys of a section, or of one that may be missing."""
    kinds = [annotation, *typing.get_args(annotation)]
    return {name for kind in kinds for name in getattr(kind, "model_fields", ())}


NAMES = st.sampled_from(
    sorted(
        {*Experiment.model_fields, "sweep", "versions"}
        | {n for f in Experiment.model_fields.values() for n in names_of_section(f.annotation)}
        | {"schedule", "early_stopping", "alpha", "hidden", "grid", "random", "variants", "samples"}
    )
) | st.text(max_size=8)
WORDS = st.sampled_from(
    ["mnist", "digits", "lenet", "mlp", "FedAvg", "HGP", "iid", "dirichlet", "auto", "module:x"]
    + ["os:system", "..", "\x00", "é" * 50, "/", "~", "data.x", "each", "folder"]
)
VALUES = st.recursive(
    st.booleans()
    | st.integers(-3, 200)
    | HUGE
    | st.floats()
    | WORDS
    | st.text(max_size=8)
    | st.dates()
    | st.datetimes()
    | st.times(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=4),
    max_leaves=10,
)
TABLES = st.dictionaries(NAMES, st.dictionaries(NAMES, VALUES, max_size=4) | VALUES, max_size=5)

# What follows --set.
OVERRIDES = st.text(max_size=20) | st.builds(
    "{}.{}={}".format, NAMES, NAMES, WORDS | HUGE | st.text(max_size=8)
)


@st.composite
def damaged(draw: Any) -> bytes:
    """A ready experiment file with some of it cut out, doubled or overwritten."""
    content = draw(st.sampled_from(READY))
    for _ in range(draw(st.integers(1, 3))):
        start = draw(st.integers(0, len(content)))
        end = min(len(content), start + draw(st.integers(0, 40)))
        new = draw(
            st.binary(max_size=4)
            | st.sampled_from([b"[", b"]]", b"=", b'"""', b"1e999", b"9" * 5000, b"[" * 3000])
            | st.just(content[start:end] * 2)
        )
        content = content[:start] + new + content[end:]
    return bytes(content)


def as_toml(tables: dict[str, Any]) -> bytes:
    try:
        return tomli_w.dumps(tables).encode("utf-8", "surrogatepass")
    except (TypeError, ValueError):
        return repr(tables).encode("utf-8", "surrogatepass")


def refuse_or_load(content: bytes, overrides: list[str]) -> None:
    """Load a file; only errors of ours may come, and what loads is the same written and read."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "e.toml"
        path.write_bytes(content)
        try:
            experiment = load_experiment(path, overrides)
        except InvalidExperimentError as error:
            assert str(error).strip()
            return
        again = Path(folder) / "again.toml"
        again.write_text(experiment.to_toml(), encoding="utf-8")
        assert load_experiment(again).to_toml() == experiment.to_toml()


@given(
    TABLES.map(as_toml) | st.binary(max_size=60) | st.text(max_size=60).map(str.encode),
    st.lists(OVERRIDES, max_size=1),
)
@FUZZ
def test_no_tables_end_with_anything_but_an_error_of_ours(
    content: bytes, overrides: list[str]
) -> None:
    refuse_or_load(content, overrides)


@given(damaged())
@FUZZ
def test_no_damaged_file_ends_with_anything_but_an_error_of_ours(content: bytes) -> None:
    refuse_or_load(content, [])


SECTIONS = st.fixed_dictionaries(
    {},
    optional={
        "model": st.dictionaries(st.sampled_from(["name", "hidden"]), VALUES, max_size=2),
        "strategy": st.dictionaries(
            st.sampled_from(["name", "eta", "fraction_train", "beta", "reduce"])
            | st.text(max_size=4),
            VALUES,
            max_size=3,
        ),
        "client": st.dictionaries(st.sampled_from(["mods", "timeout", "steps"]), VALUES),
        "data": st.dictionaries(st.sampled_from(["dataset", "options", "partition"]), VALUES),
    },
)


@given(SECTIONS)
@FUZZ
def test_what_is_checked_before_a_run_ends_with_nothing_but_an_error_of_ours(
    tables: dict[str, Any],
) -> None:
    try:
        check(Experiment.from_dict(tables))
    except AtollError as error:
        assert str(error).strip()


DISTRIBUTIONS = st.fixed_dictionaries(
    {
        "distribution": st.sampled_from(["uniform", "log-uniform", "integer", "log-integer", "x"]),
        "low": st.integers(-3, 3) | HUGE,
        "high": st.integers(-3, 3) | HUGE,
    }
)
SWEEPS = st.dictionaries(NAMES, VALUES, max_size=5) | st.fixed_dictionaries(
    {"random": st.dictionaries(st.just("client.learning_rate"), DISTRIBUTIONS)},
    optional={"samples": st.integers(-1, 3) | HUGE, "samples_seed": st.integers() | HUGE},
)


@given(SWEEPS)
@FUZZ
def test_no_sweep_ends_with_anything_but_an_error_of_ours(sweep: dict[str, Any]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "s.toml"
        path.write_bytes(as_toml({"data": {"dataset": "digits"}, "sweep": sweep}))
        try:
            load_sweep(path)
        except AtollError as error:
            assert str(error).strip()


ATTACKS = st.dictionaries(
    st.sampled_from(["dlg", "random-image", "inverting-gradients", "linear-layer", "a"]),
    st.dictionaries(
        st.sampled_from(["name", "steps", "learning_rate", "restarts", "seed"]) | NAMES,
        VALUES | st.sampled_from(["dlg", "rog", "gifd", "imprint"]),
        max_size=2,
    ),
    max_size=2,
)
DEFENSES = st.dictionaries(
    st.sampled_from(["none", "top-k", "é"]),
    SECTIONS | st.fixed_dictionaries({"client": st.fixed_dictionaries({"mods": st.lists(VALUES)})}),
    max_size=2,
)
ARENAS = st.fixed_dictionaries(
    {"attacks": ATTACKS | VALUES, "defenses": DEFENSES | VALUES},
    optional={
        name: VALUES | st.lists(st.integers(-1, 3), max_size=2)
        for name in ("seeds", "victims", "sums", "baseline", "knowledge", "grid", "pictures", "x")
    },
)


@given(ARENAS, st.dictionaries(st.sampled_from(["nodes", "rounds"]), VALUES))
@FUZZ
def test_no_arena_ends_with_anything_but_an_error_of_ours(
    arena: dict[str, Any], capture: dict[str, Any]
) -> None:
    base = {"data": {"dataset": "digits"}, "capture": {"nodes": "all", "rounds": [1], **capture}}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "a.toml"
        path.write_bytes(as_toml({**base, "arena": arena}))
        try:
            load_arena(path)
        except AtollError as error:
            assert str(error).strip()
