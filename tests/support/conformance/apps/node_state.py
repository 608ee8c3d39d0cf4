"""Context.state over rounds: arrays, metrics and configs; not kept where the client raises."""

import numpy as np
from flwr.app import ConfigRecord, MetricRecord
from flwr.clientapp import ClientApp
from flwr.serverapp import ServerApp
from flwr.serverapp.strategy import FedAvg
from kit import answer, arrays, ask, partition, result, sorted_texts, text, wait_for

server = ServerApp()
client = ClientApp()


@client.train()
def train(message, context):
    state, server_round = context.state, message.content["config"]["server-round"]
    old = state["head"]["w"].numpy() if "head" in state else np.zeros(2)
    state["head"] = arrays(w=old + server_round, odd=np.array([], dtype=np.int8))
    state["seen"] = ConfigRecord({"rounds": f"up to {server_round}", "raw": b"\x00\xff"})
    losses = list(state["losses"]["all"]) if "losses" in state else []
    state["losses"] = MetricRecord({"all": [*losses, 0.5 * server_round]})
    if partition(context) == 1 and server_round == 2:
        raise RuntimeError("after the change")
    if server_round == 3:
        del state["seen"]
    if partition(context) == 2:
        context.node_config["rounds"] = context.node_config.get("rounds", 0) + 1
    return answer(message, arrays=message.content["arrays"], metrics={"num-examples": 1})


@client.evaluate()
def evaluate(message, context):
    seen = context.state.setdefault("evaluated", MetricRecord({"n": 0}))
    seen["n"] += 1
    return answer(message, metrics={"num-examples": 1, "n": seen["n"]})


@client.query()
def query(message, context):
    own = {"p": partition(context), "names": len(context.state)}
    own["rounds"] = context.node_config.get("rounds", -1)
    return answer(message, own=own, **context.state)


@server.main()
def main(grid, context):
    nodes = wait_for(grid, 3)
    ended = FedAvg().start(grid, arrays(w=[1.0]), num_rounds=3)
    result({k: text(v) for k, v in ended.evaluate_metrics_clientapp.items()})
    for line in sorted_texts(grid.send_and_receive([ask(n, "query") for n in nodes])):
        result(line)
