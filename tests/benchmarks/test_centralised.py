"""``benchmarks/accuracy/centralised.py`` trains what the federation trains."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from atoll.errors import InvalidExperimentError
from atoll.flower.arrays import view
from atoll.platform.config.experiment import Experiment
from atoll.platform.runs.federation_run import run
from atoll.platform.sweeps.sweep_plan import Trial
from benchmarks.accuracy.centralised import Centralised
from benchmarks.accuracy.centralised import run as run_centralised

ROUNDS = 6


def trial(strategy: dict[str, Any]) -> Trial:
    tables = {
        "run": {"rounds": ROUNDS, "seed": 3, "evaluate_every": 3},
        "data": {
            "dataset": "rotated-digits",
            "clients": 5,
            "held_out": ["0"],
            "partition": {"name": "domain", "weights": [1.0, 3.0, 1.0, 2.0, 1.0]},
        },
        "model": {"name": "mlp", "hidden": [8]},
        "strategy": {
            "fraction_evaluate": 0.0,
            "client_update": "gradient",
            "server_optimizer": "adam",
            "server_learning_rate": 0.01,
            **strategy,
        },
        "ray": {"workers": 1},
    }
    experiment = Experiment.from_dict(tables)
    return Trial(experiment.strategy.name, (), experiment)


@pytest.mark.parametrize(
    "strategy",
    [
        {"name": "HGP", "penalty_weight": 100.0, "l2": 1e-3},
        {"name": "IRM", "anneal_rounds": 2, "rescale_loss": True},
        pytest.param({"name": "ERM", "l2": 1e-3}, marks=pytest.mark.long),
        pytest.param({"name": "Fishr", "anneal_rounds": 3}, marks=pytest.mark.long),
    ],
    ids=lambda strategy: str(strategy["name"]),
)
def test_full_batches_come_to_the_federations_model(
    strategy: dict[str, Any], cluster: None, tmp_path: Path
) -> None:
    one = trial(strategy)
    federated = run(one.experiment, out=tmp_path / "federated")
    centralised = Centralised(one)
    for number in range(1, ROUNDS + 1):
        centralised.step(number)
    for key, value in centralised.model.model.state_dict().items():
        np.testing.assert_allclose(view(federated.arrays[key]), value.numpy(), atol=2e-5)
    done = run_centralised(one)
    assert done.rounds == [3, 6]
    assert sorted(done.training) == ["15", "30", "45", "60", "75"]
    assert done.accuracy["0"][-1] == pytest.approx(federated.metrics["server_accuracy_0"])


def test_a_minibatch_has_as_many_examples_of_each_domain() -> None:
    one = Centralised(trial({"name": "ERM", "examples_per_round": 7}))
    drawn = one.draw()
    assert drawn.counts == dict.fromkeys(["15", "30", "45", "60", "75"], 7)
    assert one.step(1) > 0.0


@pytest.mark.parametrize("strategy", [{"name": "ANDMask"}, {"name": "FedAvg"}])
def test_other_strategies_are_refused(strategy: dict[str, Any]) -> None:
    one = trial({"name": "ERM"})
    arguments = {"fraction_evaluate": 0.0, **strategy}
    if strategy["name"] == "ANDMask":
        arguments |= {"server_optimizer": "adam", "server_learning_rate": 0.01}
    tables = {**one.experiment.to_dict(), "strategy": arguments}
    with pytest.raises(InvalidExperimentError, match="is not centralised here"):
        Centralised(Trial("other", (), Experiment.from_dict(tables)))
