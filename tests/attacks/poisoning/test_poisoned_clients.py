"""Poisoned clients in a federation, in one process and on workers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from flwr.app import ArrayRecord, ConfigRecord, Context, RecordDict
from flwr.serverapp.strategy import Strategy

from atoll import Experiment
from atoll.attacks import POISONS, ModelReplacement
from atoll.attacks.poisoning import honest_updates
from atoll.clients.apps.client_app import make_client_app
from atoll.clients.moments.moment_messages import MOMENTS
from atoll.errors import InvalidExperimentError
from atoll.flower.arrays import view
from atoll.platform.config.poisoning import poisoned_nodes
from atoll.platform.runs.checks.preflight import check_settings
from atoll.platform.runs.federation import Federation, prepare
from atoll.strategies import build_strategy
from tests.support.strategies.small_federation import LocalGrid

pytestmark = pytest.mark.slow

TABLES: dict[str, Any] = {
    "run": {"rounds": 2},
    "data": {"dataset": "digits", "clients": 6, "train_examples": 240, "test_examples": 60},
    "model": {"name": "linear"},
    "client": {"learning_rate": 0.1, "batch_size": 20},
}
CLIENTS = 6


def made(poison: dict[str, Any] | None = None, **over: Any) -> tuple[Experiment, Federation]:
    tables = {**TABLES, **over, **({} if poison is None else {"poison": poison})}
    experiment = Experiment.from_dict(tables)
    check_settings(experiment)
    return experiment, prepare(experiment)


def replies(
    federation: Federation, server_round: int = 1, order: tuple[int, ...] = tuple(range(CLIENTS))
) -> dict[int, np.ndarray]:
    """Each node's update of a round, its clients called in some order."""
    app = make_client_app(federation.spec)
    grid = LocalGrid(app, CLIENTS)
    strategy: Strategy = build_strategy("FedAvg", {})
    sent = federation.initial_arrays
    messages = list(strategy.configure_train(server_round, sent, ConfigRecord(), grid))
    messages.sort(key=lambda message: order.index(message.metadata.dst_node_id - 1))
    found = {}
    for message in messages:
        [reply] = grid.send_and_receive([message])
        assert not reply.has_error(), reply.error
        arrays = reply.content.array_records["arrays"]
        found[message.metadata.dst_node_id] = flat(arrays) - flat(sent)
    return found


def flat(arrays: ArrayRecord) -> np.ndarray:
    return np.concatenate([view(a).astype(np.float64).ravel() for a in arrays.values()])


@pytest.fixture(scope="module")
def honest() -> dict[int, np.ndarray]:
    return replies(made()[1])


@pytest.mark.parametrize("attack", [name for name in POISONS if name != "moment-scaling"])
def test_an_attack_acts_on_its_nodes_from_its_round_on(
    attack: str, honest: dict[int, np.ndarray]
) -> None:
    federation = made({"attack": attack, "nodes": [2, 5], "start_round": 2})[1]
    before, after = replies(federation, 1), replies(federation, 2)
    unpoisoned = replies(made()[1], 2)
    for node in range(1, CLIENTS + 1):
        assert np.array_equal(before[node], honest[node])
        assert np.array_equal(after[node], unpoisoned[node]) is (node not in (2, 5))


def test_closed_forms(honest: dict[int, np.ndarray]) -> None:
    flipped = replies(made({"attack": "sign-flip", "nodes": [3], "factor": 2.0})[1])[3]
    assert np.allclose(flipped, -2 * honest[3], atol=1e-6)
    both = {"nodes": [2, 5]}
    found = replies(made({"attack": "ipm", "epsilon": 3.0, **both})[1])
    assert np.allclose(found[2], -3 * (honest[2] + honest[5]) / 2, atol=1e-6)
    assert np.array_equal(found[2], found[5])
    all_knowing = {"attack": "ipm", "epsilon": 3.0, "knowledge": "omniscient"}
    others = np.mean([honest[node] for node in (1, 3, 4, 6)], axis=0)
    assert np.allclose(replies(made({**all_knowing, **both})[1])[5], -3 * others, atol=1e-6)


def test_model_replacement_multiplies_by_clients_for_each_attacker() -> None:
    plain = replies(made({"attack": "pixel-backdoor", "nodes": [2, 5]})[1])
    boosted = replies(made({"attack": "model-replacement", "nodes": [2, 5]})[1])
    assert np.allclose(boosted[2], 3 * plain[2], atol=1e-6)
    assert ModelReplacement(nodes=(1,)).boost is None


@pytest.mark.parametrize("attack", ["alie", "min-max"])
def test_the_order_of_clients_and_what_a_process_keeps_change_no_bit(attack: str) -> None:
    federation = made({"attack": attack, "nodes": [1, 4, 6]})[1]
    found = []
    for order in ((0, 1, 2, 3, 4, 5), (5, 3, 0, 4, 2, 1)):
        honest_updates._KEPT = honest_updates._Kept()
        found.append(replies(federation, order=order))
    for node in range(1, CLIENTS + 1):
        assert np.array_equal(found[0][node], found[1][node])


def test_moments_are_multiplied_and_training_is_not(honest: dict[int, np.ndarray]) -> None:
    over = {"strategy": {"name": "VREx"}}
    poisoned = made({"attack": "moment-scaling", "nodes": [2], "factor": -2.0}, **over)[1]
    plain = made(**over)[1]
    answers = [_moments(federation) for federation in (plain, poisoned)]
    for node in range(1, CLIENTS + 1):
        factor = -2.0 if node == 2 else 1.0
        assert np.abs(answers[0][node]).max() > 0
        assert np.allclose(answers[1][node], factor * answers[0][node])
    assert np.array_equal(replies(poisoned)[2], honest[2])


def _moments(federation: Federation) -> dict[int, np.ndarray]:
    grid = LocalGrid(make_client_app(federation.spec), CLIENTS)
    list(federation.strategy.configure_train(1, federation.initial_arrays, ConfigRecord(), grid))
    queries = [m for m in grid.sent if m.metadata.message_type == f"query.{MOMENTS}"]
    found = {}
    for message in queries:
        node = message.metadata.dst_node_id
        config = {"partition-id": node - 1, "num-partitions": CLIENTS}
        reply = grid.app(message, Context(1, node, config, RecordDict(), {}))
        moments = reply.content.array_records[MOMENTS]
        # The first query asks for numbers of examples alone.
        if moments:
            found[node] = flat(moments)
    return found


def test_an_attack_of_none_is_no_poison(honest: dict[int, np.ndarray]) -> None:
    experiment, federation = made({"attack": "none"})
    assert poisoned_nodes(experiment, CLIENTS) == ()
    assert federation.spec == made()[1].spec
    assert "poison" not in made()[0].to_dict()


def test_a_share_of_nodes_is_drawn_from_the_seed() -> None:
    def drawn(seed: int) -> tuple[int, ...]:
        tables = {"run": {"seed": seed}, "poison": {"attack": "sign-flip", "nodes": 0.2}}
        return poisoned_nodes(Experiment.from_dict(tables), 50)

    assert len(drawn(0)) == 10
    assert drawn(0) == drawn(0) != drawn(1)
    assert set(drawn(0)) <= set(range(1, 51))


@pytest.mark.parametrize(
    ("poison", "over", "expected"),
    [
        ({"attack": "sign-flop"}, {}, "poison.attack = 'sign-flop'"),
        ({"attack": "sign-flip", "facter": 2.0}, {}, "poison.facter = 2.0: sign-flip has no such"),
        ({"attack": "sign-flip", "factor": -1.0}, {}, "poison.factor = -1.0: expected"),
        ({"attack": "sign-flip", "seed": 3}, {}, "poison.seed = 3"),
        ({"attack": "sign-flip", "nodes": [7]}, {}, "poison.nodes = [7]: there is no 7"),
        ({"attack": "sign-flip", "nodes": [1, 2, 3, 4, 5, 6]}, {}, "is every client"),
        ({"attack": "sign-flip", "start_round": 3}, {}, "poison.start_round = 3"),
        ({"attack": "moment-scaling"}, {}, "poison.attack = 'moment-scaling'"),
        ({"attack": "pixel-backdoor", "size": 9}, {}, "larger than images of 8x8"),
        ({"attack": "pixel-backdoor", "target": 10}, {}, "target = 10: expected a class"),
        ({"attack": "label-flip", "source": 1}, {}, "expected both or neither"),
        ({"attack": "edge-case-backdoor", "source": 1}, {}, "is the source"),
        (
            {"attack": "sign-flip", "nodes": [2]},
            {"capture": {"nodes": [2], "rounds": [1]}},
            "node 2 is one of poison.nodes",
        ),
        (
            {"attack": "sign-flip", "nodes": [2]},
            {"client": {"vectorize": True}},
            "client.vectorize = True: [poison]",
        ),
    ],
)
def test_what_cannot_be_is_refused(
    poison: dict[str, Any], over: dict[str, Any], expected: str
) -> None:
    with pytest.raises(InvalidExperimentError) as refused:
        made(poison, **over)
    assert expected in str(refused.value)


@pytest.mark.parametrize(
    ("strategy", "expected"),
    [
        ({"name": "Krum", "num_malicious_nodes": 2}, "strategy.num_malicious_nodes = 2"),
        ({"name": "Bulyan", "num_malicious_nodes": 1}, "strategy.num_malicious_nodes = 1"),
        (
            {"name": "MultiKrum", "num_malicious_nodes": 1, "num_nodes_to_select": 6},
            "strategy.num_nodes_to_select = 6",
        ),
        ({"name": "FedTrimmedAvg", "beta": 0.1}, "strategy.beta = 0.1"),
    ],
)
def test_robust_strategies_without_clients_enough_are_refused(
    strategy: dict[str, Any], expected: str
) -> None:
    with pytest.raises(InvalidExperimentError) as refused:
        made(strategy=strategy)
    assert expected in str(refused.value)


@pytest.mark.parametrize(
    "strategy",
    [
        {"name": "Krum", "num_malicious_nodes": 1},
        {"name": "MultiKrum", "num_malicious_nodes": 1, "num_nodes_to_select": 3},
        {"name": "Bulyan"},
        {"name": "FedMedian"},
        {"name": "FedTrimmedAvg", "beta": 0.2},
        {"name": "GeometricMedian"},
        {"name": "CenteredClipping", "momentum": 0.5},
        {"name": "NormBound", "noise": 1e-4},
        {"name": "FLTrust", "root_examples": 40},
        {"name": "FLAME"},
    ],
)
def test_robust_strategies_train_in_flowers_own_loop(strategy: dict[str, Any]) -> None:
    federation = made({"attack": "sign-flip", "nodes": [2]}, strategy=strategy)[1]
    grid = LocalGrid(make_client_app(federation.spec), CLIENTS)
    before = federation.initial_arrays
    after = federation.strategy.start(grid, before, num_rounds=1).arrays
    assert after.keys() == before.keys()
    assert all(view(after[key]).dtype == view(before[key]).dtype for key in before)
    moved = flat(after) - flat(before)
    assert np.isfinite(moved).all()
    assert np.abs(moved).max() > 1e-4


@pytest.mark.ray
@pytest.mark.long
def test_a_run_has_the_same_bits_on_one_worker_and_two(cluster: Any, tmp_path: Path) -> None:
    from atoll import run

    found = []
    for workers in (1, 2):
        tables = {
            **TABLES,
            "poison": {"attack": "min-max", "nodes": [1, 4, 6]},
            "ray": {"workers": workers, "chunk_size": 2, "cpus_per_worker": 0.5},
        }
        found.append(run(Experiment.from_dict(tables), out=tmp_path / str(workers)))
    assert np.array_equal(flat(found[0].arrays), flat(found[1].arrays))


@pytest.mark.ray
def test_success_is_in_the_ledger(cluster: Any, tmp_path: Path) -> None:
    from atoll import run

    poison = {"attack": "model-replacement", "nodes": [1, 4], "size": 2}
    tables = {**TABLES, "poison": poison, "ray": {"workers": 1, "cpus_per_worker": 0.5}}
    result = run(Experiment.from_dict(tables), out=tmp_path / "run")
    assert 0.5 < result.metrics["server_attack_success"] <= 1.0
    assert torch.isfinite(torch.tensor(result.metrics["server_accuracy"]))
    assert "Attack success" in (tmp_path / "run" / "report.html").read_text()


NOPROP: dict[str, Any] = {
    "model": {"name": "noprop-dt", "block": "small", "steps": 2, "norm": "group"},
    "client": {"optimizer": "adamw", "learning_rate": 1e-3, "batch_size": 40},
    "strategy": {"name": "Layerwise"},
}


def test_blocks_of_a_noprop_network_are_poisoned_like_other_models() -> None:
    plain = replies(made(**NOPROP)[1])
    attack = {"attack": "sign-flip", "nodes": [2, 5], "factor": 3.0}
    found = replies(made(attack, **NOPROP)[1])
    for node in range(1, CLIENTS + 1):
        factor = -3.0 if node in (2, 5) else 1.0
        assert np.allclose(found[node], factor * plain[node], atol=1e-6)
    with pytest.raises(InvalidExperimentError, match="reads its own; expected an attack on"):
        made({"attack": "label-flip", "nodes": [2]}, **NOPROP)


def test_layers_that_are_trained_without_clients_are_not_poisoned() -> None:
    alone = {**NOPROP, "layers": {}}
    del alone["strategy"]
    with pytest.raises(InvalidExperimentError, match="there are no clients; expected one of the"):
        made({"attack": "sign-flip", "nodes": [2]}, **alone)
