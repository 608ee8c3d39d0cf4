"""Lifespans of both apps; what is done on entering is there, what is done on leaving is too."""

from flwr.app import MetricRecord
from flwr.clientapp import ClientApp
from flwr.serverapp import ServerApp
from kit import answer, ask, result, sorted_texts, wait_for

server = ServerApp()
client = ClientApp()
OPENED = []


@client.lifespan()
def client_lifespan(context):
    count = context.state["entered"]["n"] if "entered" in context.state else 0
    context.state["entered"] = MetricRecord({"n": count + 1})
    OPENED.append(context.node_id)
    yield
    context.state["left"] = MetricRecord({"n": count + 1})
    OPENED.remove(context.node_id)


@client.query()
def query(message, context):
    return answer(message, open=len(OPENED) and {"n": len(OPENED)}, **context.state)


@client.train()
def train(message, context):
    raise RuntimeError("left all the same")


@server.lifespan()
def server_lifespan(context):
    result("enter", sorted(context.run_config))
    context.state["server"] = MetricRecord({"n": 1})
    yield
    result("leave", len(context.state))


@server.main()
def main(grid, context):
    nodes = wait_for(grid, 2)
    result("main", len(context.state))
    for kind in ("query", "query", "train", "query"):
        result(kind, sorted_texts(grid.send_and_receive([ask(n, kind) for n in nodes])))
