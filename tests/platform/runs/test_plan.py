"""``atoll run --dry-run``: true to what a run then does, and nothing is started or written."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import ray
from typer.testing import CliRunner

from atoll import Experiment, run
from atoll.errors import InvalidExperimentError
from atoll.platform.cli.application import application
from atoll.platform.cli.output.plan import plan_lines
from atoll.platform.runs.plan import plan_run

TABLES: dict[str, dict[str, Any]] = {
    "run": {"rounds": 1, "name": "planned"},
    "data": {
        "dataset": "digits",
        "clients": 10,
        "partition": {"name": "dirichlet", "alpha": 1.0, "min_partition_size": 3},
    },
    "model": {"name": "mlp", "hidden": [8]},
    "strategy": {"name": "FedAvg", "fraction_train": 0.4, "fraction_evaluate": 0.2},
    "ray": {"workers": 1},
}
PARAMETERS = 64 * 8 + 8 + 8 * 10 + 10


def experiment(**sections: dict[str, Any]) -> Experiment:
    return Experiment.from_dict(
        {name: {**TABLES.get(name, {}), **sections.get(name, {})} for name in {*TABLES, *sections}}
    )


def test_a_plan_counts_clients_parameters_and_bytes() -> None:
    plan = plan_run(experiment())
    assert plan.parameters == plan.trained == PARAMETERS
    # Each of the four arrays has a header of 128 bytes.
    assert plan.model_bytes == 4 * PARAMETERS + 4 * 128
    assert plan.training is not None
    assert plan.evaluation is not None
    assert (plan.training.clients, plan.evaluation.clients) == (4, 2)
    assert plan.training.bytes_down == 4 * plan.model_bytes
    lines = dict(plan_lines(plan))
    assert lines["clients"].startswith("10, by dirichlet; ")
    assert lines["model"].startswith(f"mlp: {PARAMETERS:,} parameters on images of 1x8x8")
    assert lines["rounds"].startswith("1;")
    assert lines["strategy"] == "FedAvg"
    assert lines["workers"].startswith("1,")


def test_activations_are_those_that_autograd_keeps() -> None:
    plan = plan_run(experiment(client={"batch_size": 50}))
    assert plan.activations is not None
    # Of each example at least the pixels, the hidden units and the classes, in float32.
    assert plan.activations >= 50 * 4 * (64 + 8 + 10)
    assert plan.activations < 10 * 50 * 4 * (64 + 8 + 10)
    twice = plan_run(experiment(client={"batch_size": 100})).activations
    assert twice == pytest.approx(2 * plan.activations, rel=0.1)


@pytest.mark.parametrize(
    ("strategy", "clients", "is_query"),
    [
        ({"name": "FedMedian"}, 10, False),
        ({"name": "VREx", "penalty_weight": 1.0}, 5, True),
        ({"name": "ERM"}, 5, True),
        ({"name": "FedBuff", "concurrency": 3, "buffer_size": 2}, 2, False),
        (
            {
                "name": "DifferentialPrivacyServerSideFixedClipping",
                "noise_multiplier": 0.5,
                "clipping_norm": 1.0,
                "num_sampled_clients": 10,
                "strategy": {"name": "FedAvg"},
            },
            10,
            False,
        ),
    ],
    ids=lambda value: value["name"] if isinstance(value, dict) else "",
)
def test_a_strategy_is_asked_for_its_first_messages(
    strategy: dict[str, Any], clients: int, is_query: bool
) -> None:
    data: dict[str, Any] = {"dataset": "digits", "clients": 10}
    if strategy["name"] in ("VREx", "ERM"):
        data = {"dataset": "rotated-digits", "held_out": ["75"], "clients": 5}
        data["partition"] = {"name": "domain"}
    tables = {**TABLES, "data": data, "strategy": strategy}
    plan = plan_run(Experiment.from_dict(tables))
    assert plan.training is not None
    assert (plan.training.clients, plan.training.is_query) == (clients, is_query)
    lines = list(plan_lines(plan))
    assert all("\n" not in text for _, text in lines)
    if "strategy" in strategy:
        assert ("privacy", f"{strategy['name']}: noise multiplier 0.5") in lines
        assert ("strategy", f"{strategy['name']} around FedAvg") in lines


def test_privacy_is_what_the_run_will_have_spent() -> None:
    mods = [{"name": "dp-sgd", "clipping_norm": 1.0, "noise_multiplier": 2.0}]
    [line] = [
        t for w, t in plan_lines(plan_run(experiment(client={"mods": mods}))) if w == "privacy"
    ]
    assert line.startswith("dp-sgd: epsilon ")
    more = experiment(client={"mods": mods}, run={"rounds": 9})
    [after] = [text for word, text in plan_lines(plan_run(more)) if word == "privacy"]
    assert float(after.split()[2]) > float(line.split()[2])


def test_a_dry_run_checks_all_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    was_running = ray.is_initialized()
    path = tmp_path / "experiment.toml"
    path.write_text("data = { dataset = 'digits', clients = 8 }\nmodel.name = 'mlp'")
    done = CliRunner().invoke(application, ["run", str(path), "--dry-run"])
    assert done.exit_code == 0, done.output
    assert done.output.splitlines()[-1] == "nothing was started"
    assert ray.is_initialized() == was_running
    assert os.listdir(tmp_path) == ["experiment.toml"]
    # What only data and model together can show is wrong is refused as a run refuses it.
    settings = ["--set", "data.partition.name=dirichlet", "--set", "data.partition.alpha=0.01"]
    settings += ["--set", "data.clients=40"]
    refused = CliRunner().invoke(application, ["run", str(path), "--dry-run", *settings])
    assert refused.exit_code == 2
    assert "data.partition.min_partition_size = 10" in refused.output.replace("\n", " ")
    assert os.listdir(tmp_path) == ["experiment.toml"]


def test_a_deal_that_fails_names_the_key_that_cures_it() -> None:
    partition = {"name": "dirichlet", "alpha": 0.01, "min_partition_size": 10}
    with pytest.raises(InvalidExperimentError, match=r"data\.partition\.min_partition_size = 10"):
        plan_run(experiment(data={"partition": partition}))
    cured = {**partition, "min_partition_size": 0}
    assert len(plan_run(experiment(data={"partition": cured})).federation.partition) == 10


@pytest.mark.ray
@pytest.mark.parametrize(
    "strategy",
    [
        {"name": "FedAvg", "fraction_train": 0.4, "fraction_evaluate": 0.2},
        {"name": "FedAdam", "fraction_train": 1.0, "fraction_evaluate": 0.0},
    ],
    ids=lambda strategy: strategy["name"],
)
def test_bytes_are_those_of_the_ledger(
    strategy: dict[str, Any], cluster: None, tmp_path: Path
) -> None:
    planned = experiment(strategy=strategy)
    plan = plan_run(planned)
    assert plan.training is not None
    assert plan.evaluation is not None
    records: list[Any] = []
    run(planned, out=tmp_path / "run", callbacks=[records.append])
    [record] = records
    assert record.bytes_down == plan.training.bytes_down + plan.evaluation.bytes_down
    assert record.bytes_up == plan.training.clients * plan.model_bytes
