"""The held-out domain's distances in a real run, against the final model's in one piece."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from atoll.clients.arrays.model_arrays import ModelArrays
from atoll.clients.data.catalog.loading import load_dataset
from atoll.clients.data.images.image_tensors import to_tensor
from atoll.clients.models.head_outputs import HeadOutputs
from atoll.clients.models.model_building import build_model
from atoll.platform.callbacks.observers import RoundRecord
from atoll.platform.config.experiment import Experiment
from atoll.platform.runs.federation_run import run
from atoll.strategies.alignment.alignment_method import FIXED_SEED
from atoll.strategies.alignment.diagnostics import measure_diagnostics
from atoll.strategies.alignment.moments.domain_moments import Domains

TABLES = {
    "run": {"rounds": 4, "seed": 3, "evaluate_every": 2},
    "data": {
        "dataset": "rotated-digits",
        "clients": 2,
        "held_out": ["30"],
        "partition": {"name": "domain"},
        "options": {"angles": [0, 30, 60]},
    },
    "model": {"name": "mlp", "hidden": [16]},
    "client": {"learning_rate": 0.1, "steps": 5},
    "strategy": {"name": "ERM", "diagnostics_every": 4, "fraction_evaluate": 0.0},
    "ray": {"workers": 2},
}


def test_the_held_out_domain_is_measured_against_the_training_domains(
    tmp_path: Path, cluster: None
) -> None:
    experiment = Experiment.from_dict(TABLES)
    rows: list[RoundRecord] = []
    result = run(experiment, out=tmp_path / "run", callbacks=[rows.append])
    data = load_dataset("rotated-digits", None, {"angles": [0, 30, 60]}, seed=3)
    model = build_model(experiment.model, data.image_shape, 10, 0)
    ModelArrays(model).load(result.arrays)
    outputs = {}
    for place, name in enumerate(data.domains):
        own = data.test.domains == place
        images = to_tensor(data.test.images[own], data.mean, data.std)
        labels = torch.from_numpy(data.test.labels[own])
        with torch.no_grad():
            features = model[:-1](images)
            logits = model[-1](features)
        outputs[name] = HeadOutputs(
            features.double(), logits.double(), labels, torch.arange(len(labels)), model[-1], ()
        )
    expected = measure_diagnostics(Domains.of_outputs(outputs), FIXED_SEED, ("30",))
    assert len(expected) == 4
    found = rows[-1].server_metrics
    assert {key: found[key] for key in expected} == pytest.approx(expected, rel=1e-4)
    assert not [key for key in rows[1].server_metrics if key.startswith("transfer")]
    trained = {key for key in rows[-1].train_metrics if key.startswith("transfer")}
    assert trained == {"transfer_0", "transfer_60"}
