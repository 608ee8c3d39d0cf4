"""Strategies that hold themselves, deep and wide things, locks, files, generators."""

import threading

import numpy as np
from flwr.app import MetricRecord
from flwr.clientapp import ClientApp
from flwr.serverapp import ServerApp
from flwr.serverapp.strategy import FedAvg
from kit import answer, arrays, result, text

server = ServerApp()
client = ClientApp()


@client.train()
def train(message, context):
    w = message.content["arrays"]["w"].numpy() + 1
    return answer(message, arrays=arrays(w=w), metrics={"num-examples": 1})


class Strange(FedAvg):
    def __init__(self):
        super().__init__(fraction_evaluate=0.0)
        self.me = self
        self.cycle = [self]
        self.cycle.append(self.cycle)
        self.deep = []
        for _ in range(20_000):
            self.deep = [self.deep]
        self.names = {i: {"a": (i, str(i))} for i in range(2_000)}
        self.names["self"] = self.names
        self.public = np.zeros(6_000_000)
        self.lock = threading.Lock()
        self.lines = (line for line in "abc")
        self.log = open(__file__)  # noqa: SIM115
        self.function = lambda: self
        self.rounds = []

    def __getattr__(self, name):
        # A strategy that answers to any name, as wrappers do.
        if name.startswith("__"):
            raise AttributeError(name)
        return lambda *arguments: None

    def aggregate_train(self, server_round, replies):
        self.rounds.append((server_round, next(self.lines, None), self.me is self))
        found, _ = super().aggregate_train(server_round, replies)
        return found, MetricRecord({"deep": len(self.deep)})


class Slotted(FedAvg):
    __slots__ = ("seen",)

    def __init__(self):
        super().__init__(fraction_evaluate=0.0)
        self.seen = 0

    def __eq__(self, other):
        raise TypeError("not comparable")

    def __deepcopy__(self, memo):
        raise TypeError("not copyable")

    def __reduce_ex__(self, protocol):
        raise TypeError("not picklable")

    def aggregate_train(self, server_round, replies):
        self.seen += 1
        return super().aggregate_train(server_round, replies)


@server.main()
def main(grid, context):
    strategy = Strange()
    ended = strategy.start(grid, arrays(w=[0.0]), num_rounds=6)
    result(text(ended.arrays), strategy.rounds)
    slotted = Slotted()
    ended = slotted.start(grid, arrays(w=[0.0]), num_rounds=6)
    result(text(ended.arrays), slotted.seen)
