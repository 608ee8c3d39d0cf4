"""Natural clients: each group of a table is a client, where the experiment says nothing else."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from atoll import Experiment
from atoll.errors import InvalidExperimentError
from atoll.platform.config.sweep_sections import SweepSettings
from atoll.platform.runs.federation import prepare
from atoll.platform.runs.natural_clients import with_natural_clients
from atoll.platform.runs.plan import plan_run
from atoll.platform.sweeps.sweep_plan import plan_sweep


@pytest.fixture
def table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("ATOLL_CACHE", str(tmp_path / "cache"))
    rng = np.random.default_rng(0)
    path = tmp_path / "patients.csv"
    lines = ["age,sex,hospital,outcome"]
    for row in range(120):
        hospital = ("north", "south", "west")[row % 3]
        lines.append(f"{rng.normal(50, 9):.1f},{'fm'[row % 2]},{hospital},{rng.integers(2)}")
    path.write_text("\n".join(lines))
    return path


def tables_of(path: Path, **data: Any) -> dict[str, Any]:
    named = {"dataset": "table", "path": str(path), "target": "outcome", "group": "hospital"}
    return {"data": {**named, **data}, "model": {"name": "table-linear"}, "run": {"rounds": 2}}


def test_each_group_is_a_client(table: Path) -> None:
    given = Experiment.from_dict(tables_of(table))
    experiment = with_natural_clients(given)
    assert experiment.data.clients == 3
    assert experiment.data.partition.name == "natural-id"
    # What is written into a run directory says it, and means the same when it is read.
    assert with_natural_clients(Experiment.from_dict(experiment.to_dict())) == experiment
    federation = prepare(experiment)
    groups = federation.dataset.train.groups
    assert groups is not None
    own = [np.unique(groups[federation.partition.indices(c)]).tolist() for c in range(3)]
    assert own == [[0], [1], [2]]
    assert plan_run(given).experiment.data.clients == 3


def test_what_is_said_of_clients_holds(table: Path) -> None:
    for data in ({"clients": 5}, {"partition": {"name": "dirichlet", "alpha": 1.0}}):
        experiment = Experiment.from_dict(tables_of(table, **data))
        assert with_natural_clients(experiment) is experiment
    images = Experiment.from_dict({"data": {"dataset": "emoji"}})
    assert with_natural_clients(images) is images


def test_held_out_groups_are_no_clients(table: Path) -> None:
    experiment = with_natural_clients(Experiment.from_dict(tables_of(table, held_out=["south"])))
    assert experiment.data.clients == 2
    few = Experiment.from_dict(tables_of(table, train_examples=1))
    assert with_natural_clients(few).data.clients == 1


def test_the_trials_of_a_sweep_say_what_their_clients_are(table: Path) -> None:
    settings = SweepSettings.model_validate({"grid": {"data.held_out": "each"}})
    sweep = plan_sweep(tables_of(table), settings)
    assert [trial.held_out for trial in sweep.trials] == [("north",), ("south",), ("west",)]
    assert {trial.experiment.data.clients for trial in sweep.trials} == {2}
    assert {trial.experiment.data.partition.name for trial in sweep.trials} == {"natural-id"}


def test_what_does_not_fit_so_many_clients_is_refused(table: Path) -> None:
    tables = tables_of(table)
    tables["strategy"] = {"min_train_nodes": 7}
    with pytest.raises(InvalidExperimentError, match=r"min_train_nodes = 7: there are only .* = 3"):
        with_natural_clients(Experiment.from_dict(tables))


def test_columns_are_said_once(table: Path) -> None:
    with pytest.raises(InvalidExperimentError) as caught:
        Experiment.from_dict(tables_of(table, options={"target": "age"}))
    assert str(caught.value) == (
        "data.options.target = 'age': data.target = 'outcome' says it already; expected one of the "
        "two"
    )
