"""Files as somebody else could have made them, on digits and without a cluster."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from atoll.attacks.captures.capture import Capture, Content, FederationInfo, Truth
from atoll.attacks.captures.capture_files import CAPTURES, capture_name, write_capture
from atoll.clients.data.catalog.loading import load_dataset
from atoll.clients.models.model_building import build_model
from atoll.clients.settings import ClientSettings, ModelSettings
from atoll.files.recorded import write_recorded_json
from atoll.platform.callbacks.observers import RoundRecord, RunInfo
from atoll.platform.config.experiment import Experiment
from atoll.platform.run_directory.ledger import Ledger

RESULT = {
    "status": "finished",
    "rounds": 1,
    "metrics": {"server_accuracy": 0.5},
    "wall_seconds": 1.0,
    "errors": 0,
    "parameters_sha256": "ab" * 32,
}


def tables_of(**sections: Any) -> dict[str, Any]:
    """An experiment's tables: a linear model on digits, two clients, and what is given."""
    base = {
        "run": {"rounds": 1},
        "data": {"dataset": "digits", "clients": 2},
        "model": {"name": "linear"},
        "ray": {"workers": 1},
    }
    return {name: {**base.get(name, {}), **sections.get(name, {})} for name in {**base, **sections}}


def write_run(directory: Path, *, finished: bool = True, **sections: Any) -> Path:
    """Write a run directory with a capture, as a run of that experiment leaves it."""
    experiment = Experiment.from_dict(tables_of(**sections))
    ledger = Ledger.create(directory, experiment.to_toml())
    ledger.on_start(
        RunInfo("run", directory, 1, 1, 1, 2, 650, experiment.strategy.name, ["a note"])
    )
    write_recorded_json(
        directory / "partition.json",
        {
            "clients": [0, 1],
            "classes": list("0123456789"),
            "domains": [],
            "training_domains": [],
            "held_out": [],
            "histogram": [[1] * 10, [2] * 10],
        },
    )
    ledger.on_round(
        RoundRecord(
            server_round=1,
            num_rounds=1,
            seconds=0.5,
            cohort=1,
            replies=1,
            errors=0,
            examples=4,
            train_metrics={"loss": 1.0},
            evaluate_metrics={},
            server_metrics={"accuracy": 0.5, "loss": 1.0},
            bytes_down=1,
            bytes_up=1,
            clients={
                "round": [1],
                "phase": ["train"],
                "node_id": [1],
                "partition": [0],
                "status": ["ok"],
                "loss": [1.0],
                "seconds": [0.1],
                "worker": ["worker-0"],
            },
        )
    )
    ledger.close()
    if finished:
        ledger.write_result(RESULT)
    write_a_capture(directory, model=experiment.model, client=experiment.client)
    return directory


def write_a_capture(
    directory: Path,
    *,
    model: ModelSettings,
    client: ClientSettings,
    message_type: str = "train",
) -> Path:
    """Write a capture of node 1 in round 1, whose update is nothing."""
    dataset = load_dataset("digits")
    shape, classes = dataset.image_shape, len(dataset.classes)
    state = build_model(ModelSettings(name="linear"), shape, classes, 0).state_dict()
    capture = Capture(
        server_round=1,
        node_id=1,
        message_type=message_type,
        federation=FederationInfo(
            dataset="digits",
            model=model,
            client=client,
            inputs=dataset.inputs,
            task=dataset.task,
            num_rounds=1,
        ),
        sent=Content({"arrays": state}, {"config": {"server-round": 1}}),
        reply=Content(
            {"arrays": {key: value.clone() for key, value in state.items()}},
            {"metrics": {"num-examples": 4, "loss": 1.0}},
        ),
    )
    truth = Truth(
        inputs=torch.from_numpy(dataset.train.images[:4].copy()),
        labels=torch.from_numpy(dataset.train.labels[:4].copy()),
        batches=(torch.arange(4),),
        seed=3,
        indices=torch.arange(4),
    )
    folder = directory / CAPTURES / capture_name(1, 1, message_type)
    write_capture(capture, truth, folder)
    return folder
