"""Feature fishing through SecAgg+ in a real run: one example of clients that have one class."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from atoll.attacks.captures.capture_files import find_captures, read_truth
from atoll.errors import InvalidExperimentError
from atoll.platform.attack_runs.attack_run import run_attack
from atoll.platform.config.experiment import Experiment
from atoll.platform.runs.federation import prepare
from atoll.platform.runs.federation_run import run
from tests.support.user_code.one_class import examples_of

TARGET = 3


def experiment(**model: Any) -> Experiment:
    return Experiment.from_dict(
        {
            "run": {"rounds": 6, "seed": 1},
            "data": {
                "dataset": "digits",
                "clients": 3,
                "partition": {
                    "name": f"{examples_of.__module__}:{examples_of.__name__}",
                    "label": TARGET,
                    "examples": 4,
                },
            },
            "model": model or {"name": "fishing", "base": "mlp", "target": TARGET},
            "client": {"batch_size": 4, "learning_rate": 0.1, "mods": ["secure-aggregation"]},
            "strategy": {
                "name": "SecAggPlus",
                "strategy": {"name": "FeatureFishing", "fraction_evaluate": 0.0},
                "max_weight": 4.0,
            },
            "capture": {"nodes": "all", "rounds": [6]},
            "ray": {"workers": 1},
        }
    )


@pytest.mark.long
def test_one_of_several_is_taken_out_of_a_masked_sum(tmp_path: Path, cluster: None) -> None:
    run(experiment(), out=tmp_path / "run")
    [capture] = find_captures(tmp_path / "run")
    assert read_truth(capture).labels.tolist() == [TARGET] * 12
    result = run_attack(
        tmp_path / "run", "feature-fishing", settings={"steps": 150, "tv": 1e-3}, lpips=False
    )
    [fished] = [row for row in result.rows if row["label_found"] == TARGET]
    assert fished["psnr"] > 20


def test_another_model_is_refused_before_the_run() -> None:
    with pytest.raises(InvalidExperimentError, match="expected model.name = 'fishing'"):
        prepare(experiment(name="mlp"))
