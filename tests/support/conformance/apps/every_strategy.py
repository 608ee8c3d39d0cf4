"""Every strategy of flwr.serverapp.strategy on arrays whose means are exact."""

import numpy as np
from flwr.clientapp import ClientApp
from flwr.serverapp import ServerApp, strategy
from kit import answer, arrays, partition, result

server = ServerApp()
client = ClientApp()
NODES = 8


@client.train()
def train(message, context):
    p = partition(context)
    config = message.content["config"]
    w = {k: v.numpy() for k, v in message.content["arrays"].items()}
    moved = {k: v + v.dtype.type(p * p + 1) for k, v in w.items()}
    metrics = {"num-examples": 1 + p % 2 * 2, "train_loss": 0.5 + p, "keys": len(config)}
    return answer(message, arrays=arrays(**moved), metrics=metrics)


@client.evaluate()
def evaluate(message, context):
    total = sum(float(v.numpy().sum()) for v in message.content["arrays"].values())
    return answer(message, metrics={"num-examples": 1, "loss": total, "acc": 0.25})


def rounded(value):
    return [float(f"{x:.5g}") for x in np.asarray(value, dtype=np.float64).ravel()]


def strategies():
    for name in ("FedAvg", "FedAvgM", "FedMedian", "FedAdam", "FedAdagrad", "FedYogi", "QFedAvg"):
        more = {"client_learning_rate": 0.1} if name == "QFedAvg" else {}
        yield name, getattr(strategy, name)(**more)
    yield "FedProx", strategy.FedProx(proximal_mu=0.25)
    yield "FedAvgM", strategy.FedAvgM(server_learning_rate=0.5, server_momentum=0.5)
    yield "FedTrimmedAvg", strategy.FedTrimmedAvg(beta=0.25)
    yield "Krum", strategy.Krum(num_malicious_nodes=1)
    yield "MultiKrum", strategy.MultiKrum(num_malicious_nodes=1, num_nodes_to_select=4)
    yield "Bulyan", strategy.Bulyan(num_malicious_nodes=1)
    yield "FedAvg", strategy.FedAvg(fraction_train=0.5, fraction_evaluate=0.5)


@server.main()
def main(grid, context):
    result(sorted(name for name in strategy.__all__))
    while len(list(grid.get_node_ids())) < NODES:
        pass
    for name, made in strategies():
        if made.fraction_train < 1.0:
            made.aggregate_train = lambda server_round, replies: (
                result("sampled", len(list(replies))) or (None, None)
            )
        if name in ("QFedAvg", "Krum", "MultiKrum", "Bulyan"):
            # Their rounding, or which of equals they take, depends on the order of replies.
            made.aggregate_train = lambda server_round, replies, inner=made.aggregate_train: inner(
                server_round, sorted(replies, key=lambda r: r.content["metrics"]["train_loss"])
            )
        initial = arrays(w=np.ones((2, 2), np.float32), b=np.zeros(2))
        ended = made.start(grid, initial, num_rounds=2)
        for key, value in ended.arrays.items():
            result(name, key, value.dtype, value.shape, rounded(value.numpy()))
        for found in (ended.train_metrics_clientapp, ended.evaluate_metrics_clientapp):
            result(name, {k: {n: rounded(x) for n, x in v.items()} for k, v in found.items()})
