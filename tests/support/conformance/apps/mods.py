"""Mods: of the app and of a function, their order, what they may change; Flower's own."""

import numpy as np
from flwr.app import ConfigRecord, Error, Message, MetricRecord
from flwr.clientapp import ClientApp
from flwr.clientapp.mod import LocalDpMod, arrays_size_mod, message_size_mod
from flwr.serverapp import ServerApp
from flwr.serverapp.strategy import FedAvg
from kit import answer, arrays, ask, partition, result, sorted_texts, text, wait_for

server = ServerApp()


def tracing(name):
    def mod(message, context, call_next):
        config = message.content["config"]
        config["trace"] = [*config.get("trace", []), name]
        reply = call_next(message, context)
        if reply.has_content() and "trace" in reply.content:
            reply.content["trace"]["way"] = [*reply.content["trace"]["way"], name]
        return reply

    return mod


def counting(message, context, call_next):
    seen = context.state.setdefault("mod", MetricRecord({"n": 0}))
    seen["n"] += 1
    if partition(context) == 1 and message.metadata.message_type == "evaluate":
        return Message(Error(6, "the mod says no"), reply_to=message)
    return call_next(message, context)


client = ClientApp(mods=[tracing("a"), counting, message_size_mod])


@client.train(mods=[tracing("b"), arrays_size_mod])
def train(message, context):
    return answer(
        message,
        arrays=message.content["arrays"],
        trace=ConfigRecord({"way": [*message.content["config"]["trace"], "train"]}),
        metrics={"num-examples": 1, "mod": context.state["mod"]["n"]},
    )


@client.train("private", mods=[LocalDpMod(1.0, 1.0, 1e9, 0.5)])
def private(message, context):
    w = message.content["arrays"]["w"].numpy()
    metrics = {"num-examples": 1}
    return answer(message, arrays=arrays(w=w + 3.0), metrics=metrics)


@client.evaluate()
def evaluate(message, context):
    return answer(message, metrics={"num-examples": 1, "mod": context.state["mod"]["n"]})


class Seeing(FedAvg):
    def aggregate_train(self, server_round, replies):
        replies = list(replies)
        for line in sorted_texts(replies):
            result("train", line)
        return replies[0].content["arrays"], None

    def aggregate_evaluate(self, server_round, replies):
        result("evaluate", sorted_texts(replies))


@server.main()
def main(grid, context):
    ended = Seeing().start(grid, arrays(w=np.zeros(8)), num_rounds=2)
    result(text(ended.arrays))
    messages = [ask(node, "train.private") for node in wait_for(grid, 3)]
    for message in messages:
        message.content["arrays"] = arrays(w=np.zeros(2))
    replies = grid.send_and_receive(messages)
    found = [reply.content["arrays"]["w"].numpy() for reply in replies]
    # Clipped to norm 1; the noise is of scale 1e-9 or so.
    result("private", [np.round(np.abs(w), 3).tolist() for w in found])
