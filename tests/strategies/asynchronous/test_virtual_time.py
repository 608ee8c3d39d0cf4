"""Asynchronous strategies against a simulation that trains when a client is given its model."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp.strategy import FedAvg

from atoll.errors import InvalidExperimentError
from atoll.platform.callbacks.observers import RoundRecord
from atoll.platform.config.experiment import Experiment
from atoll.platform.grid.ray_grid import RayGrid
from atoll.platform.rounds.round_loop import run_rounds
from atoll.platform.run_directory.checkpoint import parameters_sha256
from atoll.platform.runs.federation_run import RunResult, resume, run
from atoll.strategies import build_strategy
from atoll.strategies.asynchronous.devices import Devices

pytestmark = pytest.mark.usefixtures("cluster")

NODES = 9
START = np.array([3.0, -2.0])
app = ClientApp()


@app.train()
def halve(message: Message, context: Context) -> Message:
    """Halve the distance to a point of the client's own; clients have 1, 2, 3, ... examples."""
    node = int(context.node_config["partition-id"]) + 1
    values = message.content["arrays"]["w"].numpy()
    content = {
        "arrays": ArrayRecord({"w": Array(halved(values, node))}),
        "metrics": MetricRecord({"num-examples": node, "loss": 0.0}),
    }
    return Message(RecordDict(content), reply_to=message)


def halved(values: np.ndarray, node: int) -> np.ndarray:
    return (values + np.array([node, -node])) / 2


def on_ray(strategy: Any, rounds: int) -> tuple[np.ndarray, list[dict[str, Any]]]:
    random.seed(4)
    with RayGrid(app, NODES, workers=2) as grid:
        result = run_rounds(strategy, grid, ArrayRecord({"w": Array(START)}), rounds)
    metrics = [dict(result.train_metrics_clientapp[r]) for r in range(1, rounds + 1)]
    return result.arrays["w"].numpy(), metrics


def buffered(
    devices: Devices, rounds: int, concurrency: int, size: int, exponent: float
) -> tuple[np.ndarray, float]:
    """Return what FedBuff comes to: clients train when they begin, events are taken in turn."""
    random.seed(4)
    model, now, at_work, begun = START.copy(), 0, [], dict.fromkeys(range(1, NODES + 1), 0)
    for version in range(rounds):
        buffer: dict[int, np.ndarray] = {}
        while len(buffer) < size:
            busy = {node for _, node, *_ in at_work} | set(buffer)
            free = [n for n in range(1, NODES + 1) if n not in busy]
            free = [n for n in free if devices.is_available(n, now)]
            if not free and not at_work:
                others = [n for n in range(1, NODES + 1) if n not in buffer]
                now = min(devices.next_appearance(n, now) for n in others)
                continue
            count = min(len(free), concurrency - len(at_work))
            for node in sorted(random.sample(free, count)):
                end = devices.finish(node, now, begun[node])
                begun[node] += 1
                at_work.append((end, node, version, halved(model, node) - model))
            at_work.sort(key=lambda task: task[:2])
            end, node, since, change = at_work.pop(0)
            now = max(now, end)
            buffer[node] = change * (1 + version - since) ** -exponent
        model = model + sum(buffer.values()) / size
    return model, now / 1e6


@pytest.mark.parametrize("availability", [pytest.param(1.0, marks=pytest.mark.long), 0.4])
def test_fed_buff_is_what_an_event_by_event_simulation_gives(availability: float) -> None:
    options = {"availability": availability, "availability_period": 200.0, "device_spread": 1.0}
    strategy = build_strategy(
        "FedBuff", {"concurrency": 5, "buffer_size": 3, "fraction_evaluate": 0.0, **options}
    )
    found, metrics = on_ray(strategy, 8)
    devices = Devices(60.0, 1.0, 0.1, availability, 200.0)
    expected, now = buffered(devices, 8, 5, 3, 0.5)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-12)
    assert metrics[-1]["virtual_seconds"] == now
    assert max(m["max_staleness"] for m in metrics) > 1
    assert all(len(strategy.versions) <= 6 for _ in metrics)


@pytest.mark.long
def test_without_a_deadline_it_is_fed_avg() -> None:
    found, metrics = on_ray(build_strategy("DeadlineFedAvg", {"cohort": NODES}), 3)
    expected, _ = on_ray(FedAvg(), 3)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-6)
    slowest = [Devices().finish(node, 0, 0) for node in range(1, NODES + 1)]
    assert metrics[0]["virtual_seconds"] == max(slowest) / 1e6
    assert metrics[0]["staleness"] == 0.0


@pytest.mark.long
def test_a_round_ends_at_its_deadline_and_stragglers_count_later_or_never() -> None:
    options = {"cohort": NODES, "deadline": 60.0, "device_spread": 1.0, "fraction_evaluate": 0.0}
    kept, of_kept = on_ray(build_strategy("DeadlineFedAvg", options), 6)
    dropped, of_dropped = on_ray(build_strategy("DeadlineFedAvg", {**options, "late": "drop"}), 6)
    strict = build_strategy("DeadlineFedAvg", {**options, "max_staleness": 0})
    of_limited = on_ray(strict, 6)[1]
    for metrics in (of_kept, of_dropped, of_limited):
        assert [m["virtual_seconds"] for m in metrics] == [60.0 * r for r in range(1, 7)]
    assert max(m["staleness"] for m in of_kept) > 0.0
    assert all(m["staleness"] == 0.0 for m in of_dropped + of_limited)
    assert max(m["discarded"] for m in of_limited) > 0.0
    assert of_dropped[-1]["at_work"] == 0.0
    # Whose work is lost for being late is missing from the model: here, the slow clients' points.
    assert not np.allclose(kept, dropped, atol=1e-3)


@pytest.mark.parametrize("change", [{"staleness_exponent": 2.0}, {"server_learning_rate": 0.5}])
@pytest.mark.long
def test_what_late_replies_count_for_changes_the_model(change: dict[str, float]) -> None:
    options = {"concurrency": 6, "buffer_size": 2, "device_spread": 1.0, "fraction_evaluate": 0.0}
    plain, _ = on_ray(build_strategy("FedBuff", options), 5)
    other, _ = on_ray(build_strategy("FedBuff", {**options, **change}), 5)
    assert not np.allclose(plain, other, atol=1e-3)


class StopError(Exception):
    pass


def experiment(workers: int) -> Experiment:
    return Experiment.from_dict(
        {
            "run": {"rounds": 6, "seed": 3, "checkpoint_every": 2},
            "data": {"dataset": "digits", "clients": 12},
            "model": {"name": "linear"},
            "strategy": {
                "name": "FedBuff",
                "concurrency": 6,
                "buffer_size": 4,
                "device_spread": 1.0,
                "availability": 0.7,
                "fraction_evaluate": 0.0,
            },
            "ray": {"workers": workers, "chunk_size": 1},
            "log": {"progress": False},
        }
    )


def final(result: RunResult) -> str:
    return parameters_sha256(result.arrays)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> str:
    return final(run(experiment(2), out=tmp_path_factory.mktemp("whole") / "run"))


@pytest.mark.long
def test_the_bits_do_not_depend_on_the_workers(finished: str, tmp_path: Path) -> None:
    assert final(run(experiment(1), out=tmp_path / "one")) == finished


@pytest.mark.long
def test_an_interrupted_run_comes_to_the_same_bits(finished: str, tmp_path: Path) -> None:
    def stop(record: RoundRecord) -> None:
        if record.server_round == 5:
            raise StopError

    with pytest.raises(StopError):
        run(experiment(2), out=tmp_path / "stopped", callbacks=[stop])
    assert final(resume(tmp_path / "stopped")) == finished


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"buffer_size": 0}, "strategy.buffer_size = 0: expected"),
        ({"availability": 0.0}, "strategy.availability = 0.0: expected"),
        ({"device_spread": 1e6}, "strategy.device_spread = 1000000.0: expected"),
        ({"device_seconds": 1e308}, r"strategy.device_seconds = 1e\+308: expected"),
        ({"availability_period": 1e308}, r"strategy.availability_period = 1e\+308: expected"),
        ({"concurency": 3}, "did you mean 'concurrency'"),
    ],
)
def test_bad_settings_are_refused(options: dict[str, Any], expected: str) -> None:
    with pytest.raises(InvalidExperimentError, match=expected):
        build_strategy("FedBuff", options)
