"""Strategies with a start of their own, super().start within it, several starts in one app."""

from flwr.app import ConfigRecord, MetricRecord
from flwr.clientapp import ClientApp
from flwr.serverapp import ServerApp
from flwr.serverapp.strategy import FedAvg, FedMedian, Result
from kit import answer, arrays, partition, result, text

server = ServerApp()
client = ClientApp()


@client.train()
def train(message, context):
    w = message.content["arrays"]["w"].numpy() + partition(context)
    return answer(message, arrays=arrays(w=w), metrics={"num-examples": 1, "loss": 1.0})


@client.evaluate()
def evaluate(message, context):
    return answer(message, metrics={"num-examples": 1, "acc": 0.75})


class OwnLoop(FedAvg):
    def start(self, grid, initial_arrays, num_rounds=3, timeout=3600, **named):
        current, kept = initial_arrays, Result()
        for server_round in range(1, num_rounds + 1):
            sent = self.configure_train(server_round, current, ConfigRecord(), grid)
            replies = grid.send_and_receive(sent, timeout=timeout)
            current, metrics = self.aggregate_train(server_round, replies)
            kept.train_metrics_clientapp[server_round] = metrics
            result("own round", server_round, text(current))
        kept.arrays = current
        return kept


class Staged(FedAvg):
    def start(self, grid, initial_arrays, num_rounds=3, **named):
        result("stage 1", named)
        first = super().start(grid, initial_arrays, num_rounds=1, **named)
        result("stage 2", text(first.arrays))
        second = super().start(grid, first.arrays, num_rounds=num_rounds, **named)
        second.train_metrics_clientapp[0] = MetricRecord({"stage": 1})
        return second


@server.main()
def main(grid, context):
    first = OwnLoop(fraction_evaluate=0.0).start(grid, arrays(w=[0.0]), num_rounds=2)
    result(text(first.arrays), {k: text(v) for k, v in first.train_metrics_clientapp.items()})
    second = Staged().start(grid, first.arrays, num_rounds=1)
    result(text(second.arrays), {k: text(v) for k, v in second.train_metrics_clientapp.items()})
    for number in range(2):
        third = FedMedian(fraction_evaluate=0.0).start(grid, second.arrays, num_rounds=1)
        result("median", number, text(third.arrays))
