"""A ClientApp that learns a little arithmetic and misbehaves on request.

The config says which nodes do what: ``{"fault": "raise", "nodes": [3]}``. Every client sends back
the arrays plus noise from each global generator, so equal bits prove equal random states.
"""

from __future__ import annotations

import os
import random
import signal
import time

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

app = ClientApp()


def updated(arrays: ArrayRecord, node: int) -> dict[str, np.ndarray]:
    noise = random.random() + float(np.random.rand()) + node / 7
    return {
        key: np.asarray(value.numpy() * 0.5 + noise * (1 + index), value.numpy().dtype)
        for index, (key, value) in enumerate(arrays.items())
    }


@app.train()
def train(message: Message, context: Context) -> Message:
    node = int(context.node_config["partition-id"]) + 1
    config = message.content["config"]
    values = updated(message.content["arrays"], node)
    if node in config.get("nodes", []):
        values = misbehave(str(config["fault"]), values, config, context)
    counter = context.state.get("counter", MetricRecord({"rounds": 0}))
    context.state["counter"] = MetricRecord({"rounds": counter["rounds"] + 1})
    arrays = ArrayRecord({key: Array(value) for key, value in values.items()})
    metrics = MetricRecord(
        {"num-examples": 10 + node, "loss": 1.0 / node, "rounds": counter["rounds"] + 1}
    )
    return Message(RecordDict({"arrays": arrays, "metrics": metrics}), reply_to=message)


def misbehave(
    fault: str, values: dict[str, np.ndarray], config: ConfigRecord, context: Context
) -> dict[str, np.ndarray]:
    first = next(iter(values))
    if fault == "raise":
        raise RuntimeError("no data today")
    if fault == "exit":
        raise SystemExit(3)
    if fault == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    if fault == "kill-once":
        marker = str(config["marker"])
        if not os.path.exists(marker):
            open(marker, "w").close()
            os.kill(os.getpid(), signal.SIGKILL)
    if fault == "sleep":
        time.sleep(float(config.get("seconds", 60)))
    if fault == "keys":
        values["extra"] = values.pop(first)
    if fault == "shape":
        values[first] = values[first][..., :-1]
    if fault == "dtype":
        values[first] = values[first].astype(np.float64)
    if fault == "nan":
        values[first].flat[0] = np.nan
    if fault == "inf":
        values[first].flat[-1] = np.inf
    return values


@app.evaluate()
def evaluate(message: Message, context: Context) -> Message:
    node = int(context.node_config["partition-id"]) + 1
    metrics = MetricRecord({"num-examples": node, "eval_loss": 1.0 / node})
    return Message(RecordDict({"metrics": metrics}), reply_to=message)


@app.query()
def query(message: Message, context: Context) -> Message:
    return Message(RecordDict({"answer": ConfigRecord({"partition": -1})}), reply_to=message)


@app.query("partition")
def partition(message: Message, context: Context) -> Message:
    answer = ConfigRecord({"partition": context.node_config["partition-id"], "pid": os.getpid()})
    return Message(RecordDict({"answer": answer}), reply_to=message)
