"""Strategies, evaluation functions and clients whose results are no usual metrics."""

import numpy as np
from flwr.app import ArrayRecord, ConfigRecord, Error, Message, MetricRecord
from flwr.clientapp import ClientApp
from flwr.serverapp import ServerApp
from flwr.serverapp.strategy import FedAvg
from kit import answer, arrays, partition, result, text, wait_for

server = ServerApp()
client = ClientApp()
KINDS = [
    {"num-examples": 1, "loss": 0.5},
    {"num-examples": -5, "loss": -1},
    {"num-examples": [1, 2], "loss": [1.0]},
    {"num-examples": float("nan"), "accuracy": float("inf")},
    {"num-examples": 1, "num_examples": 10**40},
    {"num-examples": 1, "epsilon": 10**400, "loss": 10**400},
    {"num-examples": 1, "layers": [1.5, float("nan")], "peak-memory": 1e300},
    {"num-examples": 1, "coded-bytes": 10**30, "accuracy": [10**400]},
    {"num-examples": 1, "personal-own": 1.0},
    {"num-examples": 1, "personal-loss": [1.0], "loss": 2},
]
REASONS = ("", "x" * 50_000, "\x1b[31m\x00 red\n\nlines")


@client.train()
def train(message, context):
    kind = message.content["config"].get("kind", 0)
    if partition(context) == 2:
        return Message(Error(2**40 + kind, REASONS[kind % 3]), reply_to=message)
    return answer(message, arrays=message.content["arrays"], metrics=KINDS[kind])


@client.evaluate()
def evaluate(message, context):
    return answer(message, metrics=KINDS[message.content["config"].get("kind", 0)])


class Odd(FedAvg):
    """FedAvg with other results."""

    def __init__(self, train=None, evaluate=None):
        super().__init__()
        self.train_result, self.evaluate_result = train, evaluate

    def aggregate_train(self, server_round, replies):
        if self.train_result is None:
            return super().aggregate_train(server_round, replies)
        return self.train_result(server_round)

    def aggregate_evaluate(self, server_round, replies):
        if self.evaluate_result is None:
            return super().aggregate_evaluate(server_round, replies)
        return self.evaluate_result(server_round)


class Taking(FedAvg):
    """What takes any reply."""

    def aggregate_train(self, server_round, replies):
        result("train", sorted(r.error.code if r.has_error() else 0 for r in replies))
        return arrays(w=[1.0]), None

    def aggregate_evaluate(self, server_round, replies):
        result("evaluate", len(list(replies)))


def shown(value):
    if isinstance(value, dict | MetricRecord | ConfigRecord):
        return str({k: shown(v) for k, v in value.items()})
    return ascii(value)[:60]


def attempt(name, strategy, grid, **named):
    try:
        ended = strategy.start(grid, arrays(w=[1.0]), num_rounds=2, **named)
    except Exception as error:
        result(name, type(error).__name__, str(error)[:70])
        return
    result(name, text(ended.arrays), shown(ended.train_metrics_clientapp))
    result(shown(ended.evaluate_metrics_clientapp), shown(ended.evaluate_metrics_serverapp))


TRAINED = {
    "arrays alone": lambda r: (arrays(w=[r * 1.0]), None),
    "metrics alone": lambda r: (None, MetricRecord({"a": r})),
    "one": lambda r: arrays(w=[1.0]),
    "three": lambda r: (arrays(w=[1.0]), None, 3),
    "nothing": lambda r: None,
    "dict": lambda r: (arrays(w=[1.0]), {"a": 1, "t": "text", 3: [None]}),
    "number": lambda r: (arrays(w=[1.0]), 3),
    "no arrays": lambda r: (ArrayRecord(), MetricRecord()),
    "shapes": lambda r: (arrays(v=np.zeros((r, r))), MetricRecord()),
    "raises": lambda r: 1 / 0,
}
EVALUATED = {
    "dict": lambda r: {"a": np.float32(0.5), "on": True},
    "number": lambda r: 3,
    "text": lambda r: "text",
    "raises": lambda r: [][1],
}
FUNCTIONS = {
    "dict": {"x": 1},
    "none": None,
    "number": 0.5,
    "numpy": np.float64(1.0),
    "config": ConfigRecord({"t": "x", "on": True}),
    "tuple": (0.5, {"a": 1}),
    "list": MetricRecord({"x": [1, 2]}),
}


@server.main()
def main(grid, context):
    wait_for(grid, 3)
    for name, found in TRAINED.items():
        attempt(f"train {name}", Odd(train=found), grid)
    for name, found in EVALUATED.items():
        attempt(f"evaluate {name}", Odd(evaluate=found), grid)
    for name, found in FUNCTIONS.items():
        attempt(f"function {name}", FedAvg(), grid, evaluate_fn=lambda r, a, found=found: found)
    for kind in range(len(KINDS)):
        config = ConfigRecord({"kind": kind})
        attempt(f"kind {kind}", Taking(), grid, train_config=config, evaluate_config=config)
