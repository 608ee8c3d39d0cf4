"""FedXgbBagging and FedXgbCyclic: a model that is JSON bytes in a uint8 array."""

import json

import numpy as np
from flwr.app import ArrayRecord
from flwr.clientapp import ClientApp
from flwr.serverapp import ServerApp
from flwr.serverapp.strategy import FedXgbBagging, FedXgbCyclic
from kit import answer, arrays, partition, result, text

server = ServerApp()
client = ClientApp()


def booster(trees):
    model = {
        "gbtree_model_param": {"num_trees": str(len(trees)), "num_parallel_tree": "1"},
        "iteration_indptr": list(range(len(trees) + 1)),
        "trees": [{"id": i, "leaf": leaf} for i, leaf in enumerate(trees)],
        "tree_info": [0] * len(trees),
    }
    text = json.dumps({"learner": {"gradient_booster": {"model": model}}})
    return np.frombuffer(text.encode(), dtype=np.uint8)


def trees_of(array):
    if array.size == 0:
        return []
    model = json.loads(bytes(array))["learner"]["gradient_booster"]["model"]
    return sorted(tree["leaf"] for tree in model["trees"])


@client.train()
def train(message, context):
    known = trees_of(message.content["arrays"]["0"].numpy())
    own = booster([partition(context) + 10 * message.content["config"]["server-round"]])
    metrics = {"num-examples": 1, "known": len(known)}
    return answer(message, arrays=ArrayRecord([own]), metrics=metrics)


@client.evaluate()
def evaluate(message, context):
    known = trees_of(message.content["arrays"]["0"].numpy())
    return answer(message, metrics={"num-examples": 1, "trees": len(known)})


@server.main()
def main(grid, context):
    empty = ArrayRecord([np.frombuffer(b"", dtype=np.uint8)])
    bagged = FedXgbBagging().start(grid, empty, num_rounds=2)
    result("bagging", trees_of(bagged.arrays["0"].numpy()))
    result({k: text(v) for k, v in bagged.train_metrics_clientapp.items()})
    result({k: text(v) for k, v in bagged.evaluate_metrics_clientapp.items()})
    cyclic = FedXgbCyclic().start(grid, arrays(**{"0": booster([1])}), num_rounds=3)
    result("cyclic", len(trees_of(cyclic.arrays["0"].numpy())))
    result({k: text(v) for k, v in cyclic.evaluate_metrics_clientapp.items()})
