"""``atoll unlearn`` on a real run, and what ``[unlearn]`` refuses."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.compute as pc
import pytest

import atoll
from atoll.errors import AtollError, InvalidExperimentError
from atoll.platform.config.experiment import Experiment, load_experiment
from atoll.platform.runs.checks.preflight import check_settings
from atoll.platform.runs.federation import prepare
from atoll.platform.runs.federation_run import run
from tests.support.runs.finished_runs import command, refused

LAST, CLIENTS, PARTS = 5, 5, 5


def tables(clients: int = CLIENTS, **sections: dict[str, Any]) -> dict[str, Any]:
    """Small clients that are learnt by heart."""
    dealt = {"name": "tests.support.user_code.dealt_examples:dealt", "parts": PARTS}
    return {
        "run": {"name": "before", "rounds": 6},
        "data": {
            "dataset": "digits",
            "clients": clients,
            "partition": {**dealt, "examples": 250},
        },
        "model": {"name": "mlp", "hidden": [32]},
        "client": {"learning_rate": 0.2, "batch_size": 10, "epochs": 5},
        "strategy": {"name": "FedAvg", "fraction_evaluate": 0.0},
        "ray": {"workers": 1},
        **sections,
    }


def unlearned(method: str, **more: Any) -> dict[str, Any]:
    """Tables with ``[unlearn]``, of a run that need not be there."""
    start = {} if method == "retrain" else {"run": "nowhere"}
    return {"unlearn": {"nodes": [LAST], "method": method, **start, **more}}


@pytest.fixture(scope="module")
def before(cluster: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs")
    return run(Experiment.from_dict(tables()), out=folder / "before").directory


def sha256(directory: Path) -> str:
    result = atoll.open_run(directory).result
    assert result is not None
    return str(result["parameters_sha256"])


def test_retraining_is_a_run_that_never_had_the_client(before: Path, tmp_path: Path) -> None:
    gone = atoll.run_unlearning(before, [LAST], "retrain", out=tmp_path / "gone")
    never = run(Experiment.from_dict(tables(clients=CLIENTS - 1)), out=tmp_path / "never")
    assert sha256(gone.directory) == never.summary["parameters_sha256"]
    assert sha256(gone.directory) != sha256(before)
    assert gone.rounds == gone.rounds_before == 6
    # It does as well on them as on others, and what had them knows them by heart.
    assert gone.before["erased accuracy"] > gone.after["erased accuracy"]


@pytest.mark.long
def test_a_client_is_unlearned_in_its_ball_by_the_command(before: Path, tmp_path: Path) -> None:
    given = ("--client", LAST, "--method", "projected-ascent", "--rounds", 2)
    out = tmp_path / "gone"
    code, shown, _ = command("unlearn", before, *given, "--out", out, "--workers", 2)
    assert code == 0
    assert "erased accuracy" in shown
    phases = atoll.open_run(out).clients.select(["round", "phase", "node_id"]).to_pylist()
    by_round = {
        number: {(row["phase"], row["node_id"]) for row in phases if row["round"] == number}
        for number in range(1, 5)
    }
    others = {("train", node) for node in range(1, CLIENTS)}
    assert by_round == {1: others, 2: {("train.unlearn", LAST)}, 3: others, 4: others}
    # The ascent was worth a round, and the others have not brought it back.
    figures = json.loads((out / "unlearning.json").read_text())
    assert figures["after"]["erased accuracy"] < figures["before"]["erased accuracy"]
    rounds = atoll.open_run(out).rounds
    assert rounds["server_erased_accuracy"].to_pylist()[1] <= 0.12
    assert rounds["server_accuracy"].to_pylist()[-1] > 0.7
    assert (out / "report.html").stat().st_size > 0
    # Any number of workers, and from a checkpoint after the ascent, one result.
    for rounds in (1, 2):
        again = atoll.run_unlearning(
            before, [LAST], "projected-ascent", rounds=rounds, out=tmp_path / "again", resume=True
        )
    assert sha256(again.directory) == sha256(out)
    code, shown, _ = command("unlearn", before, *given, "--out", out, "--resume", "--csv")
    assert code == 0
    assert "erased accuracy" in shown


def test_each_method_comes_to_a_model_of_its_own(before: Path, tmp_path: Path) -> None:
    tuned = atoll.run_unlearning(before, [LAST], "fine-tune", rounds=2, out=tmp_path / "tuned")
    free = atoll.run_unlearning(
        before, [LAST], "gradient-ascent", rounds=2, out=tmp_path / "free", resume=True
    )
    found = {sha256(directory) for directory in (before, tuned.directory, free.directory)}
    assert len(found) == 3
    assert LAST not in pc.unique(atoll.open_run(tuned.directory).clients["node_id"]).to_pylist()
    # Without the ascent the others' training alone forgets less.
    assert free.after["erased accuracy"] < tuned.after["erased accuracy"]
    config = load_experiment(free.directory / "config.toml")
    assert config.unlearn is not None
    assert config.unlearn.run == before
    # The last model of the run is where it begins, not the initial one.
    start = prepare(config).initial_arrays
    last = atoll.open_run(before).arrays()
    assert all(np.array_equal(start[name].numpy(), last[name].numpy()) for name in last)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (unlearned("retrain", nodes=[6]), r"unlearn.nodes = \[6\]: there is no 6"),
        (unlearned("retrain", nodes=[1, 2, 3, 4, 5]), "is every client"),
        (unlearned("retrain", run="x"), "begins with new parameters"),
        (unlearned("sink"), "unlearn.method = 'sink'"),
        ({"unlearn": {"nodes": [1], "method": "fine-tune"}}, "unlearn.run is not set"),
        (
            unlearned("fine-tune") | {"privacy": {"epsilon": 4.0, "delta": 1e-5}},
            r"expected none with \[privacy\]",
        ),
        (
            unlearned("gradient-ascent")
            | {"client": {"mods": [{"name": "gaussian-noise", "std": 0.1}]}},
            "client.mods: unlearn.method = 'gradient-ascent'",
        ),
        (
            unlearned("projected-ascent") | {"run": {"rounds": 1}},
            "run.rounds = 1: unlearn.method = 'projected-ascent' has 2 rounds before",
        ),
        (unlearned("fine-tune") | {"client": {"local": "head"}}, "client.local"),
        (unlearned("retrain", ascent_epochs=0), "unlearn.ascent_epochs = 0"),
    ],
)
def test_what_cannot_be_unlearned_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidExperimentError, match=message):
        check_settings(Experiment.from_dict(tables() | changes))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            unlearned("retrain") | {"strategy": {"name": "FedAvg", "min_available_nodes": 5}},
            "4 clients stay, and FedAvg waits for 5",
        ),
        (
            unlearned("gradient-ascent") | {"strategy": {"name": "FedBuff", "buffer_size": 2}},
            "strategy.name = 'FedBuff': has rounds of its own",
        ),
        (
            unlearned("gradient-ascent") | {"poison": {"attack": "sign-flip", "nodes": [LAST]}},
            "poison.attack = 'sign-flip' changes what it sends",
        ),
    ],
)
def test_what_cannot_be_unlearned_so_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidExperimentError, match=message):
        prepare(Experiment.from_dict(tables() | changes))


def test_a_model_that_is_not_there_or_of_another_kind_is_refused(
    before: Path, tmp_path: Path
) -> None:
    with pytest.raises(AtollError, match="has no checkpoint"):
        prepare(Experiment.from_dict(tables() | unlearned("fine-tune", run=str(tmp_path))))
    other = tables(model={"name": "linear"}) | unlearned("fine-tune", run=str(before))
    with pytest.raises(InvalidExperimentError, match="its model is not model.name = 'linear'"):
        prepare(Experiment.from_dict(other))
    line = refused("unlearn", before, "--client", LAST, "--method", "forget")
    assert "--method forget: expected retrain" in line
    line = refused("unlearn", tmp_path, "--client", LAST, "--method", "retrain")
    assert str(tmp_path) in line
