"""Runs on texts and with adapters: what trains travels, the same bits on any number of workers."""

import json
from pathlib import Path

import numpy as np
import pytest

from atoll import open_run, run
from atoll.clients import ModelArrays, build_model
from atoll.clients.arrays.travelling import travelling_state
from atoll.clients.models.model_building import model_seed
from atoll.errors import RunDirectoryError
from atoll.platform.config.experiment import Experiment

pytestmark = [pytest.mark.ray, pytest.mark.slow]
pytest.importorskip("peft")
WORDS = {"good": ["warm", "funny", "bright"], "bad": ["dull", "noisy", "cold"]}


def _texts(folder: Path) -> Path:
    rows = [
        {"text": f"a {word} thing, number {n}", "rating": rating, "shop": f"shop {n % 4}"}
        for rating, words in WORDS.items()
        for n, word in enumerate(words * 8)
    ]
    path = folder / "reviews.jsonl"
    path.write_text("\n".join(json.dumps(row) for row in rows))
    return path


def _experiment(path: Path, workers: int, vectorize: bool = False) -> Experiment:
    return Experiment.from_dict(
        {
            "run": {"rounds": 2, "seed": 3},
            "data": {
                "dataset": "text",
                "path": str(path),
                "target": "rating",
                "options": {"length": 24},
                "clients": 4,
            },
            "model": {
                "name": "text-transformer",
                "width": 8,
                "heads": 2,
                "adapters": {"rank": 2, "targets": ["qkv"]},
            },
            "client": {"learning_rate": 0.1, "batch_size": 4, "vectorize": vectorize},
            "strategy": {"fraction_evaluate": 0.0},
            "ray": {"workers": workers, "chunk_size": 2},
        }
    )


@pytest.mark.long
@pytest.mark.parametrize("vectorize", [False, True])
def test_what_trains_travels_with_the_same_bits(
    cluster: None, tmp_path: Path, vectorize: bool
) -> None:
    path = _texts(tmp_path)
    results = [
        run(_experiment(path, workers, vectorize), out=tmp_path / str(workers))
        for workers in (1, 2)
    ]
    one, two = (result.arrays for result in results)
    assert list(one) == list(two)
    assert all(np.array_equal(one[key].numpy(), two[key].numpy()) for key in one)
    dataset = open_run(tmp_path / "1").dataset()
    settings = _experiment(path, 1).model
    model = build_model(settings, dataset.inputs, dataset.task, model_seed(3))
    assert list(one) == list(travelling_state(model))
    before = {key: array.numpy().copy() for key, array in ModelArrays(model).read().items()}
    assert all(not np.array_equal(one[key].numpy(), before[key]) for key in one)


@pytest.mark.long
def test_an_opened_run_has_the_whole_model(cluster: None, tmp_path: Path) -> None:
    tables = _experiment(tmp_path, 1).to_dict()
    tables["data"] = {"dataset": "digits", "clients": 4, "train_examples": 200}
    tables["model"] = {"name": "mlp", "hidden": [16], "adapters": {"rank": 2}}
    experiment = Experiment.from_dict(tables)
    metrics = run(experiment, out=tmp_path / "run").metrics
    opened = open_run(tmp_path / "run")
    assert opened.evaluate()["accuracy"] == pytest.approx(metrics["server_accuracy"])
    identity = tmp_path / "run" / "identity.json"
    found = json.loads(identity.read_text())
    assert len(found["data"]["frozen parameters of the model"]) == 64
    # A model of another seed has other frozen parameters: the checkpoint is not theirs.
    other = opened.config.model_copy(
        update={"run": opened.config.run.model_copy(update={"seed": 4})}
    )
    again = open_run(tmp_path / "run")
    again.__dict__["config"] = other
    with pytest.raises(RunDirectoryError, match="frozen parameters have the SHA-256"):
        again.model()
