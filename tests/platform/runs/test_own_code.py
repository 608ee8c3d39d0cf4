"""Data, partition, model, loss and metric of a user's own in one run, and again from the cache."""

from __future__ import annotations

import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from atoll import load_experiment, resume, run

MODULE = """
import numpy as np
import torch.nn.functional as F
from torch import nn

def data(examples, seed):
    rng = np.random.default_rng(seed)
    labels = np.arange(examples) % 2
    images = rng.uniform(0, 0.3, (examples, 6, 6))
    images[labels == 1, :3] += 0.5
    return images, np.array(["dark", "light"])[labels]

def split(labels, clients):
    return np.arange(len(labels)) % clients

def net(image_shape, classes):
    return nn.Sequential(nn.Flatten(), nn.Linear(36, classes))

def loss(logits, labels):
    return F.cross_entropy(logits, labels, reduction="none", label_smoothing=0.1)

def sure(logits, labels):
    return (logits.softmax(-1).max(-1).values > 0.5).float()
"""
EXPERIMENT = """
run = { rounds = 3, metrics = ["NAME:sure"], checkpoint_every = 1 }
model.name = "NAME:net"
client = { loss = "NAME:loss", learning_rate = 0.5 }
ray.workers = 1

[data]
dataset = "NAME:data"
options = { examples = 200 }
clients = 4
partition.name = "NAME:split"
"""


@pytest.mark.ray
def test_a_run_of_ones_own_code(
    cluster: None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setenv("ATOLL_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    name = f"own_{tmp_path.name.replace('-', '_')}"
    # Workers of the Ray that tests share search the folders that this process searches.
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / f"{name}.py").write_text(MODULE)
    path = tmp_path / "experiment.toml"
    path.write_text(EXPERIMENT.replace("NAME", name))
    experiment = load_experiment(path)
    done = run(experiment, out=tmp_path / "run")
    assert done.metrics["server_accuracy"] > 0.9
    assert 0 < done.metrics["server_sure"] <= 1
    rounds = pq.read_table(tmp_path / "run" / "rounds.parquet")
    assert "server_sure" in rounds.column_names or "server_sure" in str(rounds.to_pylist())
    again = run(experiment, out=tmp_path / "again")
    assert again.summary["parameters_sha256"] == done.summary["parameters_sha256"]
    assert resume(tmp_path / "run").summary["rounds"] == 3
    # The run knows its data's code, and warns if it is another.
    (tmp_path / f"{name}.py").write_text(MODULE.replace("0.3", "0.2"))
    sys.modules.pop(name)
    assert "was changed after the run began" not in caplog.text
    run(load_experiment(path), out=tmp_path / "run", resume=True)
    assert f"the module {name} was changed after the run began" in caplog.text
