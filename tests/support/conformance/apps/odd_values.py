"""Values that Flower's records take and its protobuf does not: in replies, in state, in errors."""

from flwr.app import ConfigRecord, Error, Message, MetricRecord
from flwr.clientapp import ClientApp
from flwr.serverapp import ServerApp
from flwr.serverapp.strategy import FedAvg
from kit import answer, arrays, ask, partition, result, text, wait_for

server = ServerApp()
client = ClientApp()
NO_UTF8 = "caf\udce9"
STATES = {
    "integer": lambda: ("m", MetricRecord({"n": 2**70, "all": [1, -(2**65)]})),
    "text": lambda: ("c", ConfigRecord({"path": NO_UTF8, "raw": b"\x00\xff", "on": True})),
    "name": lambda: (NO_UTF8, ConfigRecord({NO_UTF8: [NO_UTF8], "raws": [b"", b"\xff"]})),
    "arrays": lambda: (NO_UTF8, arrays(w=[[1.5]], none=[])),
}
METRICS = {
    "integer": {"num-examples": 2**70, "loss": 2**65},
    "text": {"num-examples": 1, NO_UTF8: 0.5},
    "lists": {"num-examples": 1, "loss": [0.5, 1.0], "accuracy": [1]},
    "weights": {"num-examples": 0.5, "loss": float("nan"), "accuracy": float("inf")},
}


def shown(value):
    return ascii(value)


@client.train()
def train(message, context):
    what = message.content["config"]["what"]
    if partition(context) == 1:
        name, record = STATES[what]()
        context.state[name] = record
    return answer(message, done={"partition": partition(context)})


@client.query()
def query(message, context):
    said = {"state": shown(text(context.state))}
    for name in list(context.state):
        del context.state[name]
    return answer(message, said=ConfigRecord(said))


@client.evaluate()
def evaluate(message, context):
    return Message(Error(77, NO_UTF8), reply_to=message)


@client.train("metrics")
def metrics(message, context):
    what = message.content["config"]["what"]
    return answer(message, arrays=arrays(w=[1.0]), metrics=METRICS[what])


class Naming(FedAvg):
    def configure_train(self, server_round, a, config, grid):
        for message in super().configure_train(server_round, a, config, grid):
            message.metadata.message_type = "train.metrics"
            yield message


# What a strategy's functions return, round by round: names and kinds that change.
CHANGING = [
    {"a": 1, "large": 2**70},
    {"a": 0.5, NO_UTF8: 1},
    {"a": [1.0, 2.0], "large": -(10**400)},
    {"a": [], "b": [1, 2**65]},
    {},
    {"a": float("nan"), "": 0},
]


def changing(server_round):
    return MetricRecord(CHANGING[server_round % len(CHANGING)])


@server.main()
def main(grid, context):
    nodes = wait_for(grid, 2)
    for what in STATES:
        replies = grid.send_and_receive([ask(node, what=what) for node in nodes])
        result(what, sorted(text(reply.content) for reply in replies))
        replies = grid.send_and_receive([ask(node, "query") for node in nodes])
        result(what, sorted(text(reply.content) for reply in replies))
    replies = grid.send_and_receive([ask(node, "evaluate") for node in nodes])
    result("errors", sorted(reply.error.code for reply in replies))
    for what in METRICS:
        config = ConfigRecord({"what": what})
        strategy = Naming(fraction_evaluate=0.0)
        ended = strategy.start(grid, arrays(w=[0.0]), num_rounds=1, train_config=config)
        found = {k: shown(text(v)) for k, v in ended.train_metrics_clientapp.items()}
        result("metrics", what, text(ended.arrays), found)
    strategy = Naming(
        train_metrics_aggr_fn=lambda records, key: changing(config["server-round"]),
        fraction_evaluate=0.0,
    )
    config = ConfigRecord({"what": "lists"})
    ended = strategy.start(
        grid,
        arrays(w=[0.0]),
        num_rounds=6,
        train_config=config,
        evaluate_fn=lambda server_round, a: changing(server_round + 1),
    )
    for of in (ended.train_metrics_clientapp, ended.evaluate_metrics_serverapp):
        result("changing", {k: shown(text(v)) for k, v in of.items()})
