"""Experiment files: every mistake is one clear line, and nothing else is ever raised."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from atoll.errors import InvalidExperimentError
from atoll.platform.arenas.arena_plan import load_arena
from atoll.platform.config.experiment import (
    ARENA,
    SWEEP,
    Experiment,
    load_experiment,
    with_overrides,
)
from atoll.platform.sweeps.sweep_plan import load_sweep
from tests.support.paths import ROOT


@pytest.mark.parametrize(
    "path", sorted((ROOT / "experiments").glob("*.toml")), ids=lambda p: p.stem
)
@pytest.mark.slow
def test_the_ready_experiments_are_valid(path: Path) -> None:
    tables = tomllib.loads(path.read_text())
    if SWEEP in tables:
        rows = tables["data"].get("path")
        if rows is not None and not (path.parent / rows).exists():
            # The file says which command writes its rows.
            with pytest.raises(InvalidExperimentError, match=r"data\.path .* no such file"):
                load_sweep(path)
            return
        assert load_sweep(path).trials
        return
    if ARENA in tables:
        assert load_arena(path).federations.trials
        return
    experiment = load_experiment(path)
    assert Experiment.from_dict(tomllib.loads(experiment.to_toml())) == experiment


@pytest.mark.parametrize(
    ("tables", "line"),
    [
        ({"clint": {}}, "clint = {}: no such section; did you mean 'client'?"),
        (
            {"client": {"learning_rat": 1}},
            "client.learning_rat = 1: no such key; did you mean 'learning_rate'?",
        ),
        (
            {"client": {"optimizer": "sgdd"}},
            "client.optimizer = 'sgdd': expected 'sgd', 'adam' or 'adamw'; did you mean 'sgd'?",
        ),
        ({"run": {"rounds": "5"}}, "run.rounds = '5': expected a valid integer"),
        ({"run": {"rounds": True}}, "run.rounds = True: expected a valid integer"),
        ({"run": {"rounds": 0}}, "run.rounds = 0: expected greater than 0"),
        ({"ray": {"workers": "many"}}, "ray.workers = 'many': expected 'auto' or a valid integer"),
        (
            {"ray": {"workers": 10**9}},
            "ray.workers = 1000000000: expected 'auto' or less than or equal to 10000",
        ),
        (
            {"ray": {"cpus_per_worker": 1e-9}},
            "ray.cpus_per_worker = 1e-09: expected greater than or equal to 0.01",
        ),
        (
            {"ray": {"gpus_per_worker": 1.5}},
            "ray.gpus_per_worker = 1.5: expected 0, a share from 0.01 to 1, or whole GPUs",
        ),
        (
            {"strategy": {"name": "FedBuff", "buffer_size": 200}},
            "strategy.buffer_size = 200: there are only data.clients = 100; expected at most as "
            "many",
        ),
        ({"client": 5}, "client = 5: expected a section"),
        (
            {"run": {"name": "a/b"}},
            "run.name = 'a/b': expected letters, digits, '.', '_' and '-' only",
        ),
        (
            {"client": {"epochs": 1, "steps": 2}},
            "client.steps = 2: client.epochs = 1 is set too; expected one of the two",
        ),
        (
            {"strategy": {"min_train_nodes": 1000}},
            "strategy.min_train_nodes = 1000: there are only data.clients = 100; "
            "expected at most as many",
        ),
        (
            {"strategy": {"fraction_train": 0.0}},
            "strategy.fraction_train = 0.0: no client would train, and no round change the model; "
            "expected more than 0",
        ),
        (
            {"run": {"rounds": 5}, "client": {"schedule": {"warmup_rounds": 5}}},
            "client.schedule.warmup_rounds = 5: with run.rounds = 5 the learning rate is never "
            "reached; expected less than run.rounds",
        ),
        (
            {"run": {"early_stopping": {}}},
            "run.early_stopping: expected patience or target to be set",
        ),
        (
            {"data": {"dataset": "folder"}},
            "data.path is not set; expected a folder of images for data.dataset = 'folder'",
        ),
    ],
    ids=lambda value: value[:40] if isinstance(value, str) else "",
)
def test_a_mistake_is_one_line_with_key_value_and_what_was_expected(
    tables: dict[str, object], line: str
) -> None:
    with pytest.raises(InvalidExperimentError) as caught:
        Experiment.from_dict(tables)
    assert str(caught.value) == line


def test_several_mistakes_are_several_lines() -> None:
    with pytest.raises(InvalidExperimentError) as caught:
        Experiment.from_dict({"run": {"rounds": 0, "seed": -1}, "clinet": {}})
    assert len(str(caught.value).splitlines()) == 3


def test_overrides_win_and_take_toml_values_or_bare_words() -> None:
    settings_ = ["client.learning_rate=0.5", "data.partition.name=dirichlet", "run.rounds = 3"]
    tables = with_overrides({"client": {"learning_rate": 1.0}}, [*settings_, "model.hidden=[3, 4]"])
    experiment = Experiment.from_dict(tables)
    assert experiment.client.learning_rate == 0.5
    assert experiment.data.partition.name == "dirichlet"
    assert experiment.run.rounds == 3
    assert experiment.model.arguments == {"hidden": [3, 4]}
    for wrong in ("x", "rounds=3", "=", "run.=3", "run.rounds.deep=3"):
        with pytest.raises(InvalidExperimentError, match="--set"):
            with_overrides({"run": {"rounds": 3}}, [wrong])


def test_a_relative_path_is_relative_to_the_file(tmp_path: Path) -> None:
    (tmp_path / "e.toml").write_text('[data]\ndataset = "folder"\npath = "images"\n')
    assert load_experiment(tmp_path / "e.toml").data.path == (tmp_path / "images").resolve()


def test_files_that_are_not_toml(tmp_path: Path) -> None:
    path = tmp_path / "e.toml"
    for content in (b"[run", b"\xff\xfe", b"a = " + b"[" * 5000, b"x = 1\nx = 2"):
        path.write_bytes(content)
        with pytest.raises(InvalidExperimentError, match=r"e\.toml"):
            load_experiment(path)


@given(st.lists(st.text(max_size=30), max_size=3))
@settings(max_examples=300)
def test_no_overrides_raise_anything_else(overrides: list[str]) -> None:
    try:
        Experiment.from_dict(with_overrides({}, overrides))
    except InvalidExperimentError as error:
        assert str(error).strip()
