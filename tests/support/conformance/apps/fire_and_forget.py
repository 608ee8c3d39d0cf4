"""Vertical FL: gradients are pushed and never asked for; the next query comes after them."""

from flwr.app import MetricRecord
from flwr.clientapp import ClientApp
from flwr.serverapp import ServerApp
from kit import answer, ask, result, wait_for

server = ServerApp()
client = ClientApp()


@client.query()
def query(message, context):
    count = context.state["count"]["n"] if "count" in context.state else 0
    return answer(message, metrics={"n": count})


@client.train()
def train(message, context):
    count = context.state["count"]["n"] if "count" in context.state else 0
    context.state["count"] = MetricRecord({"n": count + 1})
    return answer(message)


@server.main()
def main(grid, context):
    nodes = wait_for(grid, 3)
    for server_round in range(1, 6):
        replies = grid.send_and_receive([ask(n, "query") for n in nodes])
        result("round", server_round, sorted(r.content["metrics"]["n"] for r in replies))
        grid.push_messages([ask(n, "train") for n in nodes])
