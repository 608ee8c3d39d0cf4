"""Several messages to one node in one exchange: one after another, each its own random draws."""

import random

import numpy as np
from flwr.app import MetricRecord
from flwr.clientapp import ClientApp
from flwr.serverapp import ServerApp
from kit import answer, ask, result, wait_for

server = ServerApp()
client = ClientApp()


@client.train()
def train(message, context):
    count = context.state["count"]["n"] if "count" in context.state else 0
    context.state["count"] = MetricRecord({"n": count + 1})
    drawn = {"np": float(np.random.rand()), "py": random.random()}
    return answer(message, metrics={"n": count + 1, **drawn})


@server.main()
def main(grid, context):
    nodes = wait_for(grid, 3)
    for _ in range(2):
        messages = [ask(node, place=i) for i in range(3) for node in nodes[:2]]
        replies = list(grid.send_and_receive(messages))
        found = [r.content["metrics"] for r in replies]
        for name in ("np", "py"):
            result(name, len(found), len({record[name] for record in found}))
        result("counts", sorted(record["n"] for record in found))
