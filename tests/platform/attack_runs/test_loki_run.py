"""LOKI through SecAgg+ in a real run: the images of all clients out of their masked sum."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from atoll.errors import InvalidExperimentError
from atoll.platform.attack_runs.attack_run import run_attack
from atoll.platform.config.experiment import Experiment
from atoll.platform.runs.federation import prepare
from atoll.platform.runs.federation_run import run


def experiment(**model: Any) -> Experiment:
    return Experiment.from_dict(
        {
            "run": {"rounds": 1, "seed": 0},
            "data": {"dataset": "digits", "clients": 4, "examples_per_client": 6},
            "model": {
                "name": "loki",
                "base": "lenet-relu",
                "sets": 4,
                "spread": 0.09,
                **model,
            },
            # Two local steps, so that it is FedAvg and not FedSGD.
            "client": {"batch_size": 3, "learning_rate": 1.0, "mods": ["secure-aggregation"]},
            "strategy": {
                "name": "SecAggPlus",
                "strategy": {"name": "LOKI", "fraction_evaluate": 0.0},
                "max_weight": 6.0,
            },
            "capture": {"nodes": "all", "rounds": [1]},
            "ray": {"workers": 1},
        }
    )


@pytest.mark.slow
def test_images_of_all_clients_are_taken_out_of_a_masked_sum(tmp_path: Path, cluster: None) -> None:
    run(experiment(bins=64), out=tmp_path / "run")
    result = run_attack(tmp_path / "run", "loki", lpips=False)
    assert len(result.rows) == 24
    assert result.rows[0]["threat"].startswith("malicious server")
    assert sum(row["psnr"] > 30 for row in result.rows) >= 18


def test_too_few_kernels_are_refused_before_the_run() -> None:
    with pytest.raises(InvalidExperimentError, match="model.sets = 3: a round has 4 clients"):
        prepare(experiment(sets=3))
