"""A layer run's driver: failures, resume, inference in three ways, tables, bad input."""

from __future__ import annotations

import io
import json
import pickle
import re
import shutil
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch
from rich.console import Console

from atoll.clients.arrays.model_arrays import ModelArrays
from atoll.clients.data.images.image_tensors import to_tensor
from atoll.clients.data.partitioning import domains
from atoll.clients.noprop.networks.inference import Inference, Noise
from atoll.clients.noprop.networks.network import noprop_dt
from atoll.errors import EngineError, InvalidExperimentError
from atoll.platform.callbacks.observers import RunInfo
from atoll.platform.cli.output.progress import ConsoleProgress
from atoll.platform.config.experiment import read_tables
from atoll.platform.reports.run_report import headline
from atoll.platform.runs.checks.preflight import check_settings
from atoll.platform.runs.federation import prepare
from atoll.platform.runs.layerwise.job_messages import counted_messages
from atoll.platform.runs.layerwise.network_arrays import network_arrays, write_manifest
from tests.support.paths import EXPERIMENTS
from tests.support.runs.layer_runs import InProcessPool, experiment, hashes, run_here

BLOCKS = ["block-01", "block-02", "block-03"]


class StopError(Exception):
    pass


@pytest.mark.slow
def test_all_three_ways_of_inference_give_the_same_numbers(tmp_path: Path) -> None:
    found = []
    for way in ("process", "features", "pipeline"):
        result = run_here(tmp_path / way, experiment(layers={"inference": way}))
        found.append({k: v for k, v in result["metrics"].items() if k.startswith("server_")})
    assert found[0] == found[1] == found[2]
    assert len(found[0]["server_exits_accuracy"]) == 3
    assert len(found[0]["server_stochastic_runs_accuracy"]) == 2


@pytest.mark.slow
def test_a_run_learns_says_nothing_between_layers_and_has_its_baselines_beside_it(
    tmp_path: Path,
) -> None:
    asked = experiment(run={"rounds": 4}, layers={"baselines": ["chain", "cnn", "ensemble"]})
    result = run_here(tmp_path, asked)
    metrics = result["metrics"]
    for name in ("accuracy", "ensemble_accuracy", "cnn_accuracy"):
        assert metrics[f"server_{name}"] > 0.5, name
    assert 0.0 < metrics["server_chain_accuracy"] <= 1.0
    assert result["messages_between_layers"] == 0
    rows = pq.read_table(tmp_path / "layers.parquet").to_pylist()
    # Blocks, head, chain, network, and the ensemble's members.
    assert len(rows) == 4 * (3 + 1 + 1 + 1 + 3)
    assert all(row["status"] == "ok" and row["messages"] == 0 for row in rows)
    assert all(row["peak_memory"] > 0 and row["loss"] >= 0 for row in rows)
    losses = [row["loss"] for row in rows if row["layer"] == "block-01"]
    assert losses[-1] < losses[0]
    assert pq.read_table(tmp_path / "rounds.parquet").num_rows == 4
    assert (tmp_path / "report.html").stat().st_size > 0


def test_messages_are_counted_where_there_are_any(cluster: None) -> None:
    import ray

    with counted_messages() as count:
        ray.get(ray.put(1))
    assert count.messages == 2
    ray.get(ray.put(1))
    assert count.messages == 2


@pytest.mark.slow
@pytest.mark.parametrize("embedding", ["one-hot", "learned"])
def test_a_run_that_is_stopped_continues_to_the_same_bits(tmp_path: Path, embedding: str) -> None:
    asked = experiment(run={"rounds": 3}, model={"embedding": embedding})
    straight = run_here(tmp_path / "straight", asked)

    def stop(record) -> None:
        if record.server_round == 2:
            raise StopError

    with pytest.raises(StopError):
        run_here(tmp_path / "stopped", asked, callbacks=[stop])
    resumed = run_here(tmp_path / "stopped", asked, is_new=False)
    assert resumed["parameters_sha256"] == straight["parameters_sha256"]
    assert resumed["metrics"] == straight["metrics"]
    rounds = pq.read_table(tmp_path / "stopped" / "rounds.parquet").column("round").to_pylist()
    assert rounds == [1, 2, 3]
    layers = pq.read_table(tmp_path / "stopped" / "layers.parquet")
    assert layers.num_rows == 3 * (3 + (embedding == "one-hot"))


@pytest.mark.slow
def test_a_block_that_dies_once_continues_from_its_checkpoint(tmp_path: Path) -> None:
    expected = run_here(tmp_path / "calm", experiment())
    deaths = iter([True])
    pool = InProcessPool(lambda job: job.payload == "block-02" and next(deaths, False))
    result = run_here(tmp_path / "hurt", experiment(), pool=pool)
    assert result["restarts"] == {"block-02": 1}
    assert result["failed_layers"] == {}
    assert result["parameters_sha256"] == expected["parameters_sha256"]


@pytest.mark.slow
def test_a_block_that_fails_for_good_leaves_a_working_model_and_its_name(tmp_path: Path) -> None:
    asked = experiment(run={"rounds": 4})
    whole = run_here(tmp_path / "whole", asked)
    pool = InProcessPool(lambda job: job.payload == "block-02")
    degraded = run_here(tmp_path / "degraded", asked, pool=pool)
    assert degraded["failed_layers"] == {"block-02": "3 workers died in its epoch 1"}
    assert len(degraded["metrics"]["server_exits_accuracy"]) == 2
    assert degraded["metrics"]["server_accuracy"] > 0.5
    shown = headline(tmp_path / "degraded")
    assert shown["failed layers"] == "block-02"
    assert "clients seen" not in shown
    assert "3 workers died in its epoch 1" in (tmp_path / "degraded" / "report.html").read_text()
    assert headline(tmp_path / "whole")["failed layers"] == "none"
    # The others did not notice.
    others = ["block-01", "block-03"]
    assert hashes(tmp_path / "degraded", others, 4) == hashes(tmp_path / "whole", others, 4)
    keys = network_arrays(tmp_path / "degraded")
    assert not any(key.startswith("blocks.1.") for key in keys)
    assert whole["parameters_sha256"] != degraded["parameters_sha256"]


@pytest.mark.slow
def test_a_trained_network_takes_fewer_steps_and_exits_early(tmp_path: Path) -> None:
    asked = experiment(run={"rounds": 4})
    metrics = run_here(tmp_path, asked)["metrics"]
    network = noprop_dt((1, 8, 8), 10, **asked.model.arguments).eval()
    ModelArrays(network).load(network_arrays(tmp_path))
    dataset = prepare(asked).dataset
    chosen = domains.test_sets(dataset, (), asked.data.test_examples).indices[0]
    images = to_tensor(dataset.test.images[chosen], dataset.mean, dataset.std)
    blocks = dict(enumerate(network.blocks))
    accuracies = []
    for some, steps in ((blocks, None), ({0: blocks[0], 1: blocks[1]}, None), (blocks, 2)):
        inference = Inference(network.design, network.shared, some, steps)
        noise = Noise(asked.run.seed, 0, int(chosen[0]))
        with torch.no_grad():
            said = inference.logits(inference.features(images), noise).argmax(1)
        accuracies.append(float((said.numpy() == dataset.test.labels[chosen]).mean()))
    exits = metrics["server_exits_accuracy"]
    assert accuracies[:2] == pytest.approx([exits[2], exits[1]])
    assert accuracies[2] > 0.5


@pytest.mark.slow
def test_the_manifest_has_the_files_of_the_network_and_of_no_failed_block(tmp_path: Path) -> None:
    pool = InProcessPool(lambda job: job.payload == "block-02" and job.arguments[4] == 2)
    run_here(tmp_path, experiment(run={"rounds": 3}), pool=pool)
    found = json.loads((tmp_path / "layers" / "manifest.json").read_text())
    epochs = {name: part["epoch"] for name, part in found.items()}
    assert epochs == {"block-01": 3, "block-03": 3, "head": 3, "shared": 0}
    # A part may have gone on when the run stopped.
    ahead = tmp_path / found["block-01"]["file"]
    shutil.copy(ahead, ahead.with_name("epoch-000004.safetensors"))
    write_manifest(tmp_path)
    assert json.loads((tmp_path / "layers" / "manifest.json").read_text()) == found


@pytest.mark.slow
def test_a_loss_that_is_not_finite_fails_its_block_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from atoll.clients.noprop.block_training import training_units as parts

    sound = parts.BlockObjective.__call__

    def broken(self, block, shared, images, labels, draws):
        loss, error = sound(self, block, shared, images, labels, draws)
        return (loss, error * float("nan")) if self._index == 0 else (loss, error)

    monkeypatch.setattr(parts.BlockObjective, "__call__", broken)
    result = run_here(tmp_path, experiment())
    assert result["failed_layers"] == {"block-01": "FloatingPointError: the loss of epoch 1 is nan"}
    assert "Traceback" not in capsys.readouterr().err


def test_a_run_of_which_every_block_fails_is_an_error(tmp_path: Path) -> None:
    pool = InProcessPool(lambda job: str(job.payload).startswith("block"))
    with pytest.raises(EngineError, match="every block has failed"):
        run_here(tmp_path, experiment(), pool=pool)


@pytest.mark.slow
def test_a_head_that_fails_leaves_the_nearest_embedding(tmp_path: Path) -> None:
    pool = InProcessPool(lambda job: job.payload == "head")
    result = run_here(tmp_path, experiment(run={"rounds": 4}), pool=pool)
    assert result["metrics"]["server_accuracy"] > 0.5


@pytest.mark.slow
@pytest.mark.parametrize("name", ["noprop-ct", "noprop-fm"])
def test_continuous_variants_run_with_a_network_an_interval(tmp_path: Path, name: str) -> None:
    tables = experiment(run={"rounds": 8}).to_dict()
    tables["model"] = {"name": name, "block": "small", "steps": 10, "blocks": 2, "mean_of": 2}
    result = run_here(tmp_path, type(experiment()).from_dict(tables))
    assert result["metrics"]["server_accuracy"] > 0.5


@pytest.mark.slow
def test_a_trained_embedding_does_not_collapse(tmp_path: Path) -> None:
    for embedding in ("learned", "prototype"):
        asked = experiment(run={"rounds": 3}, model={"embedding": embedding})
        result = run_here(tmp_path / embedding, asked)
        assert result["metrics"]["server_embedding_distance"] > 0.5


def test_early_stopping_ends_a_layer_run(tmp_path: Path) -> None:
    stopping = {"metric": "server_accuracy", "target": 0.01}
    asked = experiment(run={"rounds": 5, "early_stopping": stopping})
    assert run_here(tmp_path, asked)["rounds"] == 1


@pytest.mark.slow
def test_a_run_that_stopped_early_stays_stopped_though_killed_before_its_result(
    tmp_path: Path,
) -> None:
    stopping = {"metric": "server_accuracy", "target": 0.01}
    asked = experiment(run={"rounds": 4, "early_stopping": stopping})
    straight = run_here(tmp_path, asked)
    (tmp_path / "result.json").unlink()
    resumed = run_here(tmp_path, asked, is_new=False)
    for key in ("rounds", "metrics", "parameters_sha256", "failed_layers"):
        assert resumed[key] == straight[key]
    assert pq.read_table(tmp_path / "rounds.parquet").num_rows == 1


@pytest.mark.slow
def test_a_block_that_has_failed_stays_failed_when_the_run_continues(tmp_path: Path) -> None:
    asked = experiment(run={"rounds": 3})

    def stop(record) -> None:
        if record.server_round == 2:
            raise StopError

    def pool() -> InProcessPool:
        return InProcessPool(lambda job: job.payload == "block-02")

    straight = run_here(tmp_path / "straight", asked, pool=pool())
    with pytest.raises(StopError):
        run_here(tmp_path / "stopped", asked, pool=pool(), callbacks=[stop])
    resumed = run_here(tmp_path / "stopped", asked, is_new=False)
    for key in ("metrics", "parameters_sha256", "failed_layers"):
        assert resumed[key] == straight[key]
    tables = [pq.read_table(tmp_path / n / "layers.parquet") for n in ("straight", "stopped")]
    rows = [
        sorted(zip(t["layer"].to_pylist(), t["round"].to_pylist(), strict=True)) for t in tables
    ]
    assert rows[0] == rows[1]


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        ({"model": {"steps": 0}}, "model.steps = 0: expected greater than"),
        ({"model": {"stepz": 3}}, "model.stepz = 3: noprop-dt has no such argument"),
        ({"model": {"block": "tall"}}, "model.block = 'tall': expected 'paper', 'half' or 'small'"),
        (
            {"model": {"embedding": "prototype", "dimension": 20}},
            "model.dimension = 20: prototypes are as wide as images",
        ),
        ({"data": {"clients": 3}}, "data.clients = 3: with \\[layers\\]"),
        ({"strategy": {"name": "FedAdam"}}, "strategy.name = 'FedAdam': with \\[layers\\]"),
        ({"model": {"name": "lenet"}}, "model.name = 'lenet': its layers cannot be trained apart"),
        ({"layers": {"baselines": ["bagging"]}}, "layers.baselines = 'bagging'"),
        ({"client": {"memory_mb": [1.0]}}, "client.memory_mb = \\[1.0\\]: is of a federation"),
        ({"capture": {"nodes": "all", "rounds": [1]}}, "capture: with \\[layers\\] no client"),
        ({"client": {"proximal_mu": 0.1}}, "client.proximal_mu = 0.1: is of a federation"),
    ],
)
def test_bad_input_is_refused_with_its_key(sections, message: str) -> None:
    with pytest.raises(InvalidExperimentError, match=message):
        check_settings(experiment(**sections))


@pytest.mark.parametrize("name", ["noprop-ct", "noprop-fm"])
def test_fewer_steps_than_blocks_are_refused(name: str) -> None:
    tables = experiment().to_dict()
    tables["model"] = {"name": name, "steps": 2, "blocks": 5}
    with pytest.raises(InvalidExperimentError, match="model.steps = 2: inference would pass over"):
        check_settings(type(experiment()).from_dict(tables))


def test_an_unknown_model_with_baselines_is_one_problem() -> None:
    with pytest.raises(InvalidExperimentError) as caught:
        experiment(model={"name": "noprop-xt"}, layers={"baselines": ["ensemble"]})
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize("dimension", [3, 20])
def test_an_embedding_of_the_wrong_width_is_refused(tmp_path: Path, dimension: int) -> None:
    with pytest.raises(InvalidExperimentError, match=f"model.dimension = {dimension}"):
        run_here(tmp_path, experiment(model={"embedding": "one-hot", "dimension": dimension}))


def test_a_terminal_has_a_bar_for_each_layer(tmp_path: Path) -> None:
    shown = io.StringIO()
    progress = ConsoleProgress(Console(file=shown, force_terminal=True, width=120))
    run = RunInfo("small", tmp_path, 2, 1, 1, 3, 9, "noprop-dt", members="layers")
    progress.on_start(run)
    progress.on_unit("block-02", 1, 2)
    progress.close()
    text = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", shown.getvalue())
    assert "3 layers" in text
    assert "block-02" in text


@pytest.mark.parametrize(
    "path",
    [p for p in sorted(EXPERIMENTS.glob("noprop-*.toml")) if "arena" not in read_tables(p)],
    ids=lambda p: p.stem,
)
def test_the_experiment_files_can_be_run(path: Path) -> None:
    tables = read_tables(path)
    tables.pop("sweep", None)
    asked = type(experiment()).from_dict(tables)
    check_settings(asked)
    assert asked.run.name == path.stem


def test_no_job_of_a_part_holds_a_handle_of_another_worker(tmp_path: Path) -> None:
    pool = InProcessPool()
    run_here(tmp_path, experiment(run={"rounds": 1}), pool=pool)
    trained = [job for job in pool.jobs if isinstance(job.payload, str)]
    assert len(trained) == 4
    for job in trained:
        sent = pickle.dumps(job.arguments)
        assert len(sent) < 10_000
        assert not any(word in sent for word in (b"ActorHandle", b"ObjectRef", b"ray.actor"))
