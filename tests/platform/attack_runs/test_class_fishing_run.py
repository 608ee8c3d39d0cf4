"""Class fishing through SecAgg+ in a real run: one image out of the sum of its clients."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from atoll.attacks.captures.capture_files import find_captures, read_truth
from atoll.platform.attack_runs.attack_run import run_attack
from atoll.platform.config.experiment import Experiment
from atoll.platform.runs.federation_run import run

# With this seed one of the twelve examples is of it.
TARGET = 3


def experiment(*mods: str) -> Experiment:
    return Experiment.from_dict(
        {
            "run": {"rounds": 1, "seed": 0},
            "data": {"dataset": "digits", "clients": 4, "examples_per_client": 3},
            "model": {"name": "fishing", "base": "lenet-relu", "target": TARGET},
            "client": {"batch_size": 4, "learning_rate": 1.0, "mods": list(mods)},
            "strategy": {
                "name": "SecAggPlus",
                "strategy": {"name": "FedAvg", "fraction_evaluate": 0.0},
                "max_weight": 3.0,
            },
            "capture": {"nodes": "all", "rounds": [1]},
            "ray": {"workers": 1},
        }
    )


@pytest.mark.slow
def test_one_image_is_taken_out_of_a_masked_sum(tmp_path: Path, cluster: None) -> None:
    run(experiment("secure-aggregation"), out=tmp_path / "run")
    [capture] = find_captures(tmp_path / "run")
    labels = read_truth(capture).labels
    assert int((labels == TARGET).sum()) == 1
    result = run_attack(
        tmp_path / "run", "class-fishing", settings={"steps": 150, "tv": 1e-3}, lpips=False
    )
    assert "malicious server" in result.rows[0]["threat"]
    psnr = torch.tensor([row["psnr"] for row in result.rows])
    [fished] = [row for row in result.rows if row["label_found"] == TARGET]
    assert fished["label"] == TARGET
    assert fished["psnr"] == psnr.max()
    assert fished["psnr"] > 15
