"""A model with buffers: inf in a causal mask, an int64 counter, a bool mask, a half, a scalar."""

import numpy as np
from flwr.clientapp import ClientApp
from flwr.serverapp import ServerApp
from flwr.serverapp.strategy import FedAvg, FedMedian
from kit import answer, arrays, partition, result, text

server = ServerApp()
client = ClientApp()


@client.train()
def train(message, context):
    state = {k: v.numpy() for k, v in message.content["arrays"].items()}
    state["weight"] = state["weight"] + np.float32(partition(context))
    state["batches"] = state["batches"] + 3
    state["half"] = state["half"] + np.float16(1)
    metrics = {"num-examples": 1, "loss": 1.0 + partition(context)}
    return answer(message, arrays=arrays(**state), metrics=metrics)


@client.evaluate()
def evaluate(message, context):
    kinds = [f"{v.dtype}{tuple(v.shape)}" for v in message.content["arrays"].values()]
    metrics = {"num-examples": 1, "kinds": len(kinds), "acc": 0.25 * partition(context)}
    return answer(message, metrics=metrics)


@server.main()
def main(grid, context):
    mask = np.triu(np.full((3, 3), -np.inf, dtype=np.float32), 1)
    state = arrays(
        weight=np.zeros((2, 2), dtype=np.float32),
        mask=mask,
        batches=np.int64(4),
        half=np.zeros(2, dtype=np.float16),
        keep=np.array([True, False]),
    )
    for strategy in (FedAvg(), FedMedian()):
        ended = strategy.start(grid, state, num_rounds=2)
        result(text(ended.arrays))
        result(list(map(text, ended.train_metrics_clientapp.values())))
        result(list(map(text, ended.evaluate_metrics_clientapp.values())))
