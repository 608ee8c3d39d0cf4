import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.clientapp.mod import message_size_mod

app = ClientApp(mods=[message_size_mod])


def data(partition: int) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(partition)
    x = generator.normal(size=(20 + partition, 4)).astype(np.float32)
    return x, x @ np.arange(4, dtype=np.float32) + partition


@app.train()
def train(message: Message, context: Context) -> Message:
    partition = context.node_config["partition-id"]
    nodes, text = context.node_config["num-partitions"], context.run_config["nested.text"]
    print(f"CLIENT {partition} of {nodes} {text}")
    w = message.content["arrays"]["w"].numpy().copy()
    x, y = data(partition)
    for _ in range(3):
        w -= message.content["config"]["lr"] * 2 * x.T @ (x @ w - y) / len(y)
    visits = context.state.get("visits", ConfigRecord({"count": 0}))
    context.state["visits"] = ConfigRecord({"count": visits["count"] + 1})
    metrics = MetricRecord({"num-examples": len(y), "visits": visits["count"] + 1})
    arrays = ArrayRecord({"w": Array(w.astype(np.float32))})
    return Message(RecordDict({"arrays": arrays, "metrics": metrics}), reply_to=message)


@app.evaluate()
def evaluate(message: Message, context: Context) -> Message:
    x, y = data(context.node_config["partition-id"])
    loss = float(((x @ message.content["arrays"]["w"].numpy() - y) ** 2).mean())
    metrics = MetricRecord({"num-examples": len(y), "eval_loss": loss})
    return Message(RecordDict({"metrics": metrics}), reply_to=message)


@app.query("size")
def size(message: Message, context: Context) -> Message:
    count = len(data(context.node_config["partition-id"])[1])
    return Message(RecordDict({"size": MetricRecord({"size": count})}), reply_to=message)
