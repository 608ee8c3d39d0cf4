"""The server's evaluation by domain, against the same model evaluated in one piece."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from atoll.clients.arrays.model_arrays import ModelArrays
from atoll.clients.data.catalog.loading import load_dataset
from atoll.clients.models.model_building import build_model
from atoll.clients.training.evaluation import evaluate
from atoll.errors import InvalidExperimentError
from atoll.platform.config.experiment import Experiment
from atoll.platform.run_directory.run_files import read_confusion
from atoll.platform.runs.federation_run import run

TABLES = {
    "run": {"rounds": 2, "seed": 3},
    "data": {
        "dataset": "rotated-digits",
        "clients": 2,
        "held_out": ["30"],
        "partition": {"name": "domain"},
        "options": {"angles": [0, 30, 60]},
    },
    "model": {"name": "mlp", "hidden": [16]},
    "client": {"learning_rate": 0.1, "steps": 5},
    "ray": {"workers": 2},
}


def test_every_domain_is_evaluated_and_the_held_out_one_is_the_headline(
    tmp_path: Path, cluster: None
) -> None:
    experiment = Experiment.from_dict(TABLES)
    result = run(experiment, out=tmp_path / "run")
    data = load_dataset("rotated-digits", None, {"angles": [0, 30, 60]}, seed=3)
    model = build_model(experiment.model, data.image_shape, 10, 0)
    ModelArrays(model).load(result.arrays)
    expected = {
        name: evaluate(model, data, data.test, np.flatnonzero(data.test.domains == place))
        for place, name in enumerate(data.domains)
    }
    metrics = result.metrics
    for name, own in expected.items():
        assert metrics[f"server_accuracy_{name}"] == own["accuracy"]
        assert metrics[f"server_loss_{name}"] == pytest.approx(own["loss"], rel=1e-6)
    assert metrics["server_accuracy"] == expected["30"]["accuracy"]
    assert metrics["server_validation_accuracy"] == pytest.approx(
        (expected["0"]["accuracy"] + expected["60"]["accuracy"]) / 2
    )
    confusion = read_confusion(tmp_path / "run")
    assert confusion is not None
    assert confusion.round == 2
    assert np.array_equal(confusion.counts, expected["30"].confusion)
    assert np.trace(confusion.counts) / np.sum(confusion.counts) == metrics["server_accuracy"]
    clients = pq.read_table(tmp_path / "run" / "clients.parquet").to_pydict()
    assert set(zip(clients["partition"], clients["domain"], strict=True)) == {(0, "0"), (1, "60")}
    examples = dict(zip(clients["partition"], clients["examples"], strict=True))
    assert examples == {
        0: int((data.train.domains == 0).sum()),
        1: int((data.train.domains == 2).sum()),
    }


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"held_out": ["31"]}, "data.held_out = '31': rotated-digits has no such domain"),
        (
            {
                "held_out": ["30"],
                "partition": {"name": "domain", "clients_per_domain": {"0": 1, "30": 1}},
            },
            "gives clients the domain '30', which data.held_out keeps from them",
        ),
        ({"dataset": "digits", "options": {}}, "digits has no such domain; it has none"),
    ],
)
def test_impossible_domains_are_refused_before_a_run_directory_is_made(
    tmp_path: Path, cluster: None, changes: dict, message: str
) -> None:
    experiment = Experiment.from_dict({**TABLES, "data": {**TABLES["data"], **changes}})
    with pytest.raises(InvalidExperimentError, match=message):
        run(experiment, out=tmp_path / "run")
    assert not (tmp_path / "run").exists()
