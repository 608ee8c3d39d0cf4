"""SecAgg+ of Flower's, on our engine and clients."""

from collections.abc import Iterable
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from flwr.app import ConfigRecord, Message
from flwr.common import bytes_to_ndarray
from flwr.common.secure_aggregation.secaggplus_constants import Key
from flwr.serverapp.strategy import FedAvg
from scipy import stats

from atoll.attacks.captures.aggregate_capture import aggregate_truths
from atoll.attacks.captures.capture_files import CAPTURES, find_captures, read_capture, read_truth
from atoll.attacks.threat.capabilities import Capability, ThreatModel
from atoll.attacks.threat.observation import observe
from atoll.attacks.threat.simulation import ClientSimulation
from atoll.clients.apps.client_app import make_client_app
from atoll.errors import InvalidExperimentError
from atoll.platform.config.experiment import Experiment
from atoll.platform.grid.ray_grid import RayGrid
from atoll.platform.runs.federation import prepare
from atoll.platform.runs.federation_run import run
from atoll.strategies.sec_agg_plus import SecAggPlus


def experiment(*, secure: bool) -> Experiment:
    plain = {"name": "FedAvg", "fraction_evaluate": 0.0}
    return Experiment.from_dict(
        {
            "run": {"rounds": 2},
            "data": {"dataset": "digits", "clients": 5, "examples_per_client": 40},
            "model": {"name": "mlp", "hidden": [16]},
            "client": {"batch_size": 16, "mods": ["secure-aggregation"] if secure else []},
            "strategy": {"name": "SecAggPlus", "strategy": plain} if secure else plain,
            "ray": {"workers": 1},
        }
    )


class Onlooker(RayGrid):
    """Sees what the server is sent."""

    seen: list[Message]

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> list[Message]:
        replies = super().send_and_receive(messages, timeout=timeout)
        self.seen += replies
        return replies


@pytest.mark.long
def test_a_run_comes_to_the_plain_runs_model_but_for_rounding(
    tmp_path: Path, cluster: None
) -> None:
    secure = run(experiment(secure=True), out=tmp_path / "secure")
    plain = run(experiment(secure=False), out=tmp_path / "plain")
    for key, array in plain.arrays.items():
        # Parameters are rounded to 2^22 levels of [-8, 8], weights to 2^22 levels too.
        np.testing.assert_allclose(secure.arrays[key].numpy(), array.numpy(), rtol=0, atol=1e-3)
    assert secure.metrics["train_loss"] == pytest.approx(plain.metrics["train_loss"], rel=1e-3)


def one_step_of(experiment: Experiment, **capture: object) -> Experiment:
    tables = experiment.to_dict()
    tables["data"]["examples_per_client"] = 8
    if tables["strategy"]["name"] == "SecAggPlus":
        # A client's share of it multiplies its parameters before they are rounded.
        tables["strategy"]["max_weight"] = 8.0
    tables["capture"] = {"nodes": "all", "rounds": [2], **capture}
    return Experiment.from_dict(tables)


@pytest.mark.long
def test_the_server_of_a_run_records_sums_only(tmp_path: Path, cluster: None) -> None:
    secure = run(one_step_of(experiment(secure=True)), out=tmp_path / "secure")
    [found] = find_captures(tmp_path / "secure")
    assert [path.name for path in (tmp_path / "secure" / CAPTURES).iterdir()] == [found.name]
    capture, truth = read_capture(found), read_truth(found)
    assert capture.name == "the sum of the clients in round 2"
    assert capture.examples == len(truth.labels) == 40
    for key, array in secure.arrays.items():
        np.testing.assert_allclose(capture.update[key].numpy(), array.numpy(), rtol=1e-6, atol=0)
    run(one_step_of(experiment(secure=False)), out=tmp_path / "plain")
    paths = find_captures(tmp_path / "plain")
    assert len(paths) == 5
    together = aggregate_truths([read_truth(path) for path in paths])
    assert torch.equal(together.indices, truth.indices)
    # What it was decoded to is what one client with everybody's examples would have sent.
    observation = observe(capture, ThreatModel.of(Capability.TRAINING))
    sent = ClientSimulation.of(observation)(truth.normalized(capture.federation), truth.labels)
    for seen, expected in zip(observation.target, sent, strict=True):
        # Masked parameters have 2^22 levels in [-8, 8]; gradients are that over the rate.
        torch.testing.assert_close(seen, expected, rtol=0, atol=1e-3)


def test_a_sum_that_no_client_could_have_sent_is_not_recorded(
    tmp_path: Path, cluster: None
) -> None:
    tables = one_step_of(experiment(secure=True)).to_dict()
    tables["client"]["batch_size"] = 4
    with pytest.raises(
        InvalidExperimentError, match="8 examples takes 2 steps; expected one on all"
    ):
        run(Experiment.from_dict(tables), out=tmp_path / "run")


def test_what_a_client_sends_is_noise_to_the_server(cluster: None) -> None:
    federation = prepare(experiment(secure=True))
    app = partial(make_client_app, federation.spec)
    with Onlooker(app, 5, workers=1) as grid:
        grid.seen = []
        strategy = SecAggPlus(FedAvg(fraction_train=1.0))
        start = federation.initial_arrays
        assert strategy.configure_train(1, start, ConfigRecord(), grid) == []
        mean, _ = strategy.aggregate_train(1, [])
    assert mean is not None
    assert any(not np.array_equal(mean[key].numpy(), start[key].numpy()) for key in start)
    vectors = []
    for reply in grid.seen:
        assert all(not arrays for arrays in reply.content.array_records.values())
        for record in reply.content.config_records.values():
            if Key.MASKED_PARAMETERS in record:
                # The first array is the masked weight.
                arrays = [bytes_to_ndarray(b) for b in record[Key.MASKED_PARAMETERS]][1:]
                vectors.append(np.concatenate([array.ravel() for array in arrays]))
    assert len(vectors) == 5
    parameters = np.concatenate([start[key].numpy().ravel() for key in start])
    for vector in vectors:
        assert stats.kstest(vector / 2**32, "uniform").pvalue > 1e-4
        assert abs(np.corrcoef(vector, parameters)[0, 1]) < 0.12
