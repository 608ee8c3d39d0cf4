"""What comes from outside: no server that outsiders reach, no code in files, no odd file or reply
that ends a run with anything but an error of ours.

Hypothesis tries some hundreds of examples; ``ATOLL_FUZZ_EXAMPLES=10000`` tries more.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import textwrap
import typing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tomli_w
from flwr.app import ArrayRecord
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from atoll.errors import AtollError, InvalidExperimentError
from atoll.platform.checkpoint import Checkpoint, CheckpointStore
from atoll.platform.experiment import Experiment, load_experiment
from atoll.platform.federation import check
from atoll.platform.state_tree import StateDecoder, StateEncoder
from atoll.platform.sweep_plan import load_sweep

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = int(os.environ.get("ATOLL_FUZZ_EXAMPLES", "60"))
FUZZ = settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=[HealthCheck.too_slow])
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


def test_a_ray_that_is_started_here_listens_on_loopback_only() -> None:
    code = """
        import os, psutil, ray
        os.environ.pop("RAY_ADDRESS", None)
        from atoll.platform.cluster import Cluster
        cluster = Cluster(cpus=1)
        assert cluster.started
        ray.get(ray.remote(lambda: 1).remote())
        own = [psutil.Process(), *psutil.Process().children(recursive=True)]
        found = set()
        for process in own:
            for connection in process.net_connections(kind="inet"):
                if connection.status == psutil.CONN_LISTEN:
                    found.add(f"{connection.laddr.ip} {process.name()}")
        print("LISTENS", *sorted(found), sep=";")
        cluster.close()
    """
    # A folder of its own, so that no other Ray of this machine is taken for ours.
    with tempfile.TemporaryDirectory(prefix="r") as folder:
        output = in_a_process(code, RAY_TMPDIR=folder)
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
        from atoll.platform.checkpoint import CheckpointStore
        from atoll.platform.state_tree import StateDecoder

        def refuse(event, arguments):
            if event in ("pickle.find_class", "exec", "compile"):
                raise RuntimeError(f"{{event}} {{arguments}}")

        store = CheckpointStore(Path({str(tmp_path)!r}))
        import numpy.random
        StateDecoder({{}}).value({{"dict": []}})
        sys.addaudithook(refuse)
        checkpoint = store.latest()
        decoder = StateDecoder(checkpoint.state_arrays)
        print(decoder.value(checkpoint.tree["generator"]).integers(1000))
        print(decoder.value(checkpoint.tree["nested"])["a"][1].sum())
    """
    drawn, total = in_a_process(code).split()
    assert int(drawn) == np.random.default_rng(3).integers(1000)
    assert float(total) == 3.0


def test_a_checkpoint_names_no_function_to_call() -> None:
    state = {"dict": [["bit_generator", "seed"]]}
    with pytest.raises(ValueError, match="'seed' is no bit generator"):
        StateDecoder({}).value({"generator": state})


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


def refuse_or_load(content: bytes) -> None:
    """Load a file as an experiment and as a sweep; only errors of ours may come, with a text."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "e.toml"
        path.write_bytes(content)
        try:
            experiment = load_experiment(path)
        except InvalidExperimentError as error:
            assert str(error).strip()
            return
        again = Path(folder) / "again.toml"
        again.write_text(experiment.to_toml(), encoding="utf-8")
        assert load_experiment(again).to_toml() == experiment.to_toml()


@given(TABLES.map(as_toml) | st.binary(max_size=60) | st.text(max_size=60).map(str.encode))
@FUZZ
def test_no_tables_end_with_anything_but_an_error_of_ours(content: bytes) -> None:
    refuse_or_load(content)


@given(damaged())
@FUZZ
def test_no_damaged_file_ends_with_anything_but_an_error_of_ours(content: bytes) -> None:
    refuse_or_load(content)


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


@given(st.dictionaries(NAMES, VALUES, max_size=5))
@FUZZ
def test_no_sweep_ends_with_anything_but_an_error_of_ours(sweep: dict[str, Any]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "s.toml"
        path.write_bytes(as_toml({"data": {"dataset": "digits"}, "sweep": sweep}))
        try:
            load_sweep(path)
        except AtollError as error:
            assert str(error).strip()
