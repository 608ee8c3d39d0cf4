"""Flower's DP strategies, its local-DP mod and its SecAgg+ workflow: an app for either engine.

What is random on a client is seeded by its round and partition, and the server's noise before each
run, so that both engines draw the same. Run as a script, it runs on stock Flower's simulation.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.client import NumPyClient
from flwr.clientapp import ClientApp
from flwr.clientapp.mod import LocalDpMod, adaptiveclipping_mod, fixedclipping_mod
from flwr.common import ndarrays_to_parameters
from flwr.server import LegacyContext, ServerConfig
from flwr.server.strategy import FedAvg as LegacyFedAvg
from flwr.server.workflow import DefaultWorkflow, SecAggPlusWorkflow
from flwr.serverapp import Grid
from flwr.serverapp import strategy as flower
from flwr.serverapp.strategy import FedAvg, Strategy

from tests.support.apps.stock_simulation import Results, keep_results

NODES, ROUNDS = 6, 2
NOISE = {"noise_multiplier": 0.3, "num_sampled_clients": NODES}
SERVER_FIXED, CLIENT_FIXED = {**NOISE, "clipping_norm": 0.5}, {**NOISE, "clipping_norm": 0.7}
SERVER_ADAPTIVE = {**NOISE, "initial_clipping_norm": 0.4}
CLIENT_ADAPTIVE = {**NOISE, "initial_clipping_norm": 0.6}


def plain() -> FedAvg:
    return FedAvg(fraction_evaluate=0.0, min_train_nodes=NODES, min_available_nodes=NODES)


# By name the strategy, and the mod that its clients have.
STRATEGIES: dict[str, tuple[Callable[[], Strategy], str]] = {
    "server-fixed": (
        lambda: flower.DifferentialPrivacyServerSideFixedClipping(plain(), **SERVER_FIXED),
        "",
    ),
    "server-adaptive": (
        lambda: flower.DifferentialPrivacyServerSideAdaptiveClipping(plain(), **SERVER_ADAPTIVE),
        "",
    ),
    "client-fixed": (
        lambda: flower.DifferentialPrivacyClientSideFixedClipping(plain(), **CLIENT_FIXED),
        "fixed",
    ),
    "client-adaptive": (
        lambda: flower.DifferentialPrivacyClientSideAdaptiveClipping(plain(), **CLIENT_ADAPTIVE),
        "adaptive",
    ),
    "local": (plain, "local"),
}
# Which partition fails in training, if one does: SecAgg+ then rebuilds what its mask was.
SECURE = {"secure": -1, "secure-dropout": 2}
MODS = {
    "fixed": fixedclipping_mod,
    "adaptive": adaptiveclipping_mod,
    "local": LocalDpMod(0.5, 0.01, 8.0, 1e-5),
}


def initial() -> list[np.ndarray]:
    return [np.linspace(-1, 1, 12, dtype=np.float32).reshape(3, 4), np.ones(3, np.float32)]


def trained(values: list[np.ndarray], partition: int, server_round: int) -> list[np.ndarray]:
    """Return a step towards the client's own target; mods draw what follows from its seed."""
    generator = np.random.default_rng([partition, server_round])
    targets = [generator.normal(partition - 2, 1, v.shape).astype(np.float32) for v in values]
    np.random.seed(100 * server_round + partition)
    return [
        (v + 0.3 * (target - v)).astype(np.float32)
        for v, target in zip(values, targets, strict=True)
    ]


def chosen_mod(message: Message, context: Context, call_next: Any) -> Message:
    """The mod that the message's config names."""
    mod = MODS.get(str(message.content.config_records["config"]["mod"]))
    answer = call_next if mod is None else lambda m, c: mod(m, c, call_next)
    return answer(message, context)


class Client(NumPyClient):
    def __init__(self, partition: int) -> None:
        self._partition = partition

    def fit(self, parameters: list[np.ndarray], config: dict[str, Any]) -> Any:
        if config["fails"] == self._partition:
            raise RuntimeError("gone")
        values = trained(parameters, self._partition, int(config["round"]))
        return values, 10 + self._partition, {}


def secure_app() -> ClientApp:
    from flwr.client.mod import secaggplus_mod

    def client(context: Context) -> Any:
        return Client(int(context.node_config["partition-id"])).to_client()

    return ClientApp(client_fn=client, mods=[secaggplus_mod])


networks = ClientApp()
secure = secure_app()


@networks.train(mods=[chosen_mod])
def train(message: Message, context: Context) -> Message:
    partition = int(context.node_config["partition-id"])
    arrays = message.content.array_records["arrays"]
    server_round = int(message.content.config_records["config"]["server-round"])
    made = trained([a.numpy() for a in arrays.values()], partition, server_round)
    records = {
        "arrays": ArrayRecord({key: Array(v) for key, v in zip(arrays, made, strict=True)}),
        "metrics": MetricRecord({"num-examples": 10 + partition}),
    }
    return Message(RecordDict(records), reply_to=message)


app = ClientApp()


@app.train()
def answer(message: Message, context: Context) -> Message:
    is_ours = "arrays" in message.content.array_records
    return (networks if is_ours else secure)(message, context)


def run_strategy(name: str, start: Callable[..., Any]) -> list[np.ndarray]:
    """Run a DP strategy; ``start(strategy, **arguments)`` is its ``start``, or our loop."""
    make, mod = STRATEGIES[name]
    np.random.seed(3)
    arrays = ArrayRecord({str(key): Array(value) for key, value in enumerate(initial())})
    result = start(
        make(),
        initial_arrays=arrays,
        num_rounds=ROUNDS,
        train_config=ConfigRecord({"mod": mod}),
    )
    return [array.numpy() for array in result.arrays.values()]


def run_secure(name: str, grid: Grid, context: Context) -> list[np.ndarray]:
    """Run Flower's SecAgg+ workflow, as an app of Flower's older API does."""
    found: list[list[np.ndarray]] = []

    def keep(server_round: int, values: list[np.ndarray], config: dict[str, Any]) -> None:
        found.append(values)

    strategy = LegacyFedAvg(
        fraction_evaluate=0.0,
        min_fit_clients=NODES,
        min_available_clients=NODES,
        evaluate_fn=keep,
        on_fit_config_fn=lambda server_round: {"round": server_round, "fails": SECURE[name]},
        initial_parameters=ndarrays_to_parameters(initial()),
    )
    legacy = LegacyContext(context, config=ServerConfig(num_rounds=ROUNDS), strategy=strategy)
    workflow = SecAggPlusWorkflow(num_shares=1.0, reconstruction_threshold=0.5)
    DefaultWorkflow(fit_workflow=workflow)(grid, legacy)
    assert len(found) == ROUNDS + 1
    return found[-1]


def results_on(grid: Grid, context: Context) -> Results:
    """Run all of them, each strategy with its own ``start``."""
    results = {
        name: run_strategy(name, lambda s, **named: s.start(grid=grid, **named))
        for name in STRATEGIES
    }
    results |= {name: run_secure(name, grid, context) for name in SECURE}
    return {
        name: {str(place): value for place, value in enumerate(values)}
        for name, values in results.items()
    }


def main(target: Path) -> None:
    """Run all of them on stock Flower's simulation, and keep what they come to."""
    keep_results(target, app, NODES, results_on)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
