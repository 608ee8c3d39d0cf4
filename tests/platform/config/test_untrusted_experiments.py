"""Odd experiment, sweep and arena files: they end with nothing but an error of ours.

Hypothesis tries some dozens of examples; ``ATOLL_FUZZ_EXAMPLES=10000`` tries more of each kind.
"""

from __future__ import annotations

import os
import tempfile
import typing
from pathlib import Path
from typing import Any

import pytest
import tomli_w
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from atoll.errors import (
    AtollError,
    InvalidExperimentError,
)
from atoll.platform.arenas.arena_plan import load_arena
from atoll.platform.config.experiment import Experiment, load_experiment
from atoll.platform.runs.checks.preflight import check_settings
from atoll.platform.sweeps.sweep_plan import load_sweep
from tests.support.paths import ROOT

EXAMPLES = int(os.environ.get("ATOLL_FUZZ_EXAMPLES", "60"))
FUZZ = settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=[HealthCheck.too_slow])
pytestmark = pytest.mark.timeout(300 + EXAMPLES)
READY = [path.read_bytes() for path in sorted((ROOT / "experiments").glob("*.toml"))]


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
        check_settings(Experiment.from_dict(tables))
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
