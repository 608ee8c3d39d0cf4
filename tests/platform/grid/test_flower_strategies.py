"""Every strategy that ships with Flower on a real Ray, against its own ``start`` on stock loops."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.clientapp.mod import adaptiveclipping_mod, fixedclipping_mod
from flwr.clientapp.typing import Mod
from flwr.serverapp import strategy as flower
from flwr.serverapp.strategy import FedAvg, Strategy

from atoll.platform.grid.ray_grid import RayGrid
from atoll.platform.rounds.round_loop import run_rounds
from atoll.randomness import seed_everything
from tests.support.apps.faulty_app import app, evaluate, train

pytestmark = pytest.mark.usefixtures("cluster")

NODES = 8
NOISE = {"noise_multiplier": 0.1, "num_sampled_clients": NODES}
FIXED = {**NOISE, "clipping_norm": 1.0}

NETWORKS: dict[str, Callable[[], Strategy]] = {
    "FedAvg": FedAvg,
    "FedAvgM": lambda: flower.FedAvgM(server_momentum=0.5),
    "FedProx": lambda: flower.FedProx(proximal_mu=0.1),
    "FedAdagrad": flower.FedAdagrad,
    "FedAdam": flower.FedAdam,
    "FedYogi": flower.FedYogi,
    "QFedAvg": lambda: flower.QFedAvg(client_learning_rate=0.1, train_loss_key="loss"),
    "FedMedian": flower.FedMedian,
    "FedTrimmedAvg": lambda: flower.FedTrimmedAvg(beta=0.2),
    "Krum": lambda: flower.Krum(num_malicious_nodes=1),
    "MultiKrum": lambda: flower.MultiKrum(num_malicious_nodes=1, num_nodes_to_select=3),
    "Bulyan": lambda: flower.Bulyan(num_malicious_nodes=1),
    "DifferentialPrivacyServerSideFixedClipping": lambda: (
        flower.DifferentialPrivacyServerSideFixedClipping(FedAvg(), **FIXED)
    ),
    "DifferentialPrivacyServerSideAdaptiveClipping": lambda: (
        flower.DifferentialPrivacyServerSideAdaptiveClipping(FedAvg(), **NOISE)
    ),
    "DifferentialPrivacyClientSideFixedClipping": lambda: (
        flower.DifferentialPrivacyClientSideFixedClipping(FedAvg(), **FIXED)
    ),
    "DifferentialPrivacyClientSideAdaptiveClipping": lambda: (
        flower.DifferentialPrivacyClientSideAdaptiveClipping(FedAvg(), **NOISE)
    ),
}
MODS = {
    "DifferentialPrivacyClientSideFixedClipping": fixedclipping_mod,
    "DifferentialPrivacyClientSideAdaptiveClipping": adaptiveclipping_mod,
}

trees_app = ClientApp()


@trees_app.train()
def grow(message: Message, context: Context) -> Message:
    """Answer with one more tree, in XGBoost's JSON."""
    tree = {"id": 0, "partition": context.node_config["partition-id"]}
    model = {
        "gbtree_model_param": {"num_trees": "1", "num_parallel_tree": "1"},
        "iteration_indptr": [0, 1],
        "trees": [tree],
        "tree_info": [0],
    }
    text = json.dumps({"learner": {"gradient_booster": {"model": model}}}).encode()
    metrics = MetricRecord({"num-examples": 1})
    arrays = ArrayRecord([np.frombuffer(text, np.uint8)])
    return Message(RecordDict({"arrays": arrays, "metrics": metrics}), reply_to=message)


def initial_arrays() -> ArrayRecord:
    values = [np.linspace(-1, 1, 12, dtype=np.float32).reshape(3, 4), np.zeros(3, np.float32)]
    return ArrayRecord({str(key): Array(value) for key, value in enumerate(values)})


def client_app(mod: Mod | None) -> ClientApp:
    if mod is None:
        return app
    modded = ClientApp()
    modded.train(mods=[mod])(train)
    modded.evaluate()(evaluate)
    return modded


@pytest.fixture(scope="module")
def grids(cluster: None) -> Iterator[dict[Mod | None, RayGrid]]:
    """A grid for each mod; what clients reply depends on the round alone."""
    with ExitStack() as stack:
        yield {
            mod: stack.enter_context(RayGrid(client_app(mod), NODES, seed=9, workers=workers))
            for mod, workers in ((None, 2), *((mod, 1) for mod in MODS.values()))
        }


@pytest.mark.parametrize("name", NETWORKS)
def test_a_strategy_ends_where_its_own_start_ends(
    name: str, grids: dict[Mod | None, RayGrid]
) -> None:
    finals = []
    for run in (lambda s, *rest: s.start(*rest), run_rounds):
        seed_everything(3)
        grid = grids[MODS.get(name)]
        finals.append(run(NETWORKS[name](), grid, initial_arrays(), 2).arrays)
    theirs, ours = finals
    assert list(ours) == list(theirs)
    for key, array in theirs.items():
        assert not np.array_equal(array.numpy(), initial_arrays()[key].numpy())
        np.testing.assert_allclose(ours[key].numpy(), array.numpy(), rtol=2e-5, atol=1e-6)


@pytest.mark.parametrize("strategy", [flower.FedXgbBagging, flower.FedXgbCyclic])
def test_trees_are_joined_by_flowers_own_strategies(strategy: type[FedAvg]) -> None:
    with RayGrid(trees_app, 3, workers=1) as grid:
        kept = strategy(fraction_evaluate=0.0)
        arrays = run_rounds(kept, grid, ArrayRecord([np.empty(0, np.uint8)]), 2).arrays
    [model] = [array.numpy().tobytes() for array in arrays.values()]
    trees = json.loads(model)["learner"]["gradient_booster"]["model"]["trees"]
    assert len(trees) == (6 if strategy is flower.FedXgbBagging else 1)


def test_they_are_all_here() -> None:
    trees = {"FedXgbBagging", "FedXgbCyclic"}
    assert {*NETWORKS, *trees} == {*flower.__all__} - {"Result", "Strategy"}
