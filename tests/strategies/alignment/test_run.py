"""Alignment in real runs, on Ray: the same bits for any number of workers, resumed, and split."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flwr.app import Context, Message
from flwr.clientapp.typing import ClientAppCallable

from atoll.errors import InvalidExperimentError
from atoll.platform.callbacks.observers import RoundRecord
from atoll.platform.config.experiment import Experiment
from atoll.platform.run_directory.checkpoint import parameters_sha256
from atoll.platform.runs.federation_run import RunResult, resume, run

pytestmark = pytest.mark.usefixtures("cluster")

STEP = {
    "client_update": "gradient",
    "server_optimizer": "adam",
    "server_learning_rate": 1e-2,
    "fraction_evaluate": 0.0,
}


class StopError(Exception):
    pass


def experiment(strategy: dict[str, Any], **sections: Any) -> Experiment:
    tables: dict[str, Any] = {
        "run": {"rounds": 4, "seed": 3, "checkpoint_every": 2},
        "data": {
            "dataset": "colored-digits",
            "clients": 4,
            "held_out": ["e0.9"],
            "partition": {"name": "domain", "weights": [1.0, 3.0, 1.0, 2.0]},
        },
        "model": {"name": "mlp-irm", "hidden": 16},
        "client": {"batch_size": 4000},
        "strategy": strategy,
        "ray": {"workers": 2, "chunk_size": 1},
        "log": {"progress": False},
    }
    for name, section in sections.items():
        tables[name] = {**tables[name], **section}
    return Experiment.from_dict(tables)


def final(result: RunResult) -> str:
    return parameters_sha256(result.arrays)


HGP = {**STEP, "name": "HGP", "alpha": 1.0, "beta": 1.0, "penalty_weight": 50.0}


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ATOLL_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="module")
def split(
    cache: None, cluster: None, tmp_path_factory: pytest.TempPathFactory
) -> tuple[RunResult, list[RoundRecord]]:
    """A run with two workers, each domain split over two unequal clients."""
    rows: list[RoundRecord] = []
    out = tmp_path_factory.mktemp("split") / "run"
    return run(experiment(HGP), out=out, callbacks=[rows.append]), rows


def test_the_same_bits_for_one_and_two_workers_and_after_an_interruption(
    split: tuple[RunResult, list[RoundRecord]], tmp_path: Path
) -> None:
    two, rows = split
    one = run(experiment(HGP, ray={"workers": 1}), out=tmp_path / "one")
    assert final(one) == final(two)
    metrics = rows[0].train_metrics
    assert metrics["penalty"] > 0.0
    assert metrics["bytes_up_hessian-product"] > metrics["bytes_up_head-gradient"] > 0.0
    assert rows[0].cohort == 4

    def stop(record: RoundRecord) -> None:
        if record.server_round == 3:
            raise StopError

    with pytest.raises(StopError):
        run(experiment(HGP), out=tmp_path / "stopped", callbacks=[stop])
    assert final(resume(tmp_path / "stopped")) == final(two)


def test_domains_split_over_clients_come_to_the_same_model(
    split: tuple[RunResult, list[RoundRecord]], tmp_path: Path
) -> None:
    data = {"clients": 2, "partition": {"name": "domain"}}
    whole = run(experiment(HGP, data=data), out=tmp_path / "whole")
    for key, array in whole.arrays.items():
        np.testing.assert_allclose(split[0].arrays[key].numpy(), array.numpy(), atol=2e-5)


def fail_once(message: Message, context: Context, call: ClientAppCallable) -> Message:
    """A mod: partition 1 fails in the training of round 2."""
    server_round = message.content.config_records["config"]["server-round"]
    if (context.node_config["partition-id"], server_round) == (1, 2):
        raise ValueError("the battery is empty")
    return call(message, context)


def test_a_client_that_fails_between_query_and_training_is_reported(tmp_path: Path) -> None:
    rows: list[RoundRecord] = []
    client = {"mods": [f"{__name__}:fail_once"]}
    run(experiment(HGP, client=client), out=tmp_path / "failing", callbacks=[rows.append])
    # Each domain counts for a half; partition 1 has three quarters of its own.
    lost = [row.train_metrics["lost_weight"] for row in rows]
    assert lost == [0.0, pytest.approx(0.375, abs=2e-3), 0.0, 0.0]
    assert [row.errors for row in rows] == [0, 1, 0, 0]


@pytest.mark.long
def test_methods_on_the_server_and_by_updates_run_too(tmp_path: Path) -> None:
    fish = {"name": "Fish", "server_learning_rate": 1e-3, "fraction_evaluate": 0.0}
    assert run(experiment(fish), out=tmp_path / "fish").metrics["train_loss"] > 0.0
    adjusted = run(experiment({"name": "FedDGGA"}), out=tmp_path / "adjusted")
    assert adjusted.metrics["train_loss_after"] > 0.0


def test_one_domain_is_refused_before_a_round(tmp_path: Path) -> None:
    alone = experiment(HGP, data={"held_out": ["e0.9", "e0.1"], "partition": {"name": "domain"}})
    with pytest.raises(InvalidExperimentError, match="the clients hold 1 domain"):
        run(alone, out=tmp_path / "alone")
