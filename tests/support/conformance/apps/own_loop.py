"""An app without a strategy: federated analytics, rounds and sampling of its own, prints."""

import logging

import numpy as np
from flwr.app import Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.common.logger import log
from flwr.serverapp import ServerApp
from kit import answer, arrays, ask, partition, result, sorted_texts, wait_for

server = ServerApp()
client = ClientApp()


@client.query("histogram")
def histogram(message, context):
    values = np.arange(10) * (partition(context) + 1)
    counts = np.histogram(values, bins=message.content["config"]["bins"], range=(0, 40))[0]
    return answer(message, histogram={"counts": counts.tolist(), "mean": float(values.mean())})


@client.train()
def train(message, context):
    w = message.content["arrays"]["w"].numpy()
    return answer(message, arrays=arrays(w=w + partition(context)), metrics={"size": w.size})


@server.main()
def main(grid, context):
    nodes = wait_for(grid, 4)
    replies = list(grid.send_and_receive([ask(n, "query.histogram", bins=4) for n in nodes]))
    total = np.sum([r.content["histogram"]["counts"] for r in replies], axis=0)
    result("histogram", total.tolist(), sorted(r.content["histogram"]["mean"] for r in replies))
    w = np.zeros(2)
    for server_round in range(3):
        log(logging.INFO, "own round %d", server_round)
        content = RecordDict({"arrays": arrays(w=w)})
        messages = [Message(content, n, "train", group_id=str(server_round)) for n in nodes]
        replies = list(grid.send_and_receive(messages))
        w = np.mean([r.content["arrays"]["w"].numpy() for r in replies], axis=0)
        result(server_round, w.tolist(), {r.metadata.group_id for r in replies})
    log(logging.WARNING, "done: %s", w.tolist())
    result(sorted_texts(replies))
