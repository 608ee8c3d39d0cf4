"""Replies with several records of each kind, under names of the app's own."""

from flwr.app import ConfigRecord, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import ServerApp
from flwr.serverapp.strategy import FedAvg
from kit import answer, arrays, partition, result, sorted_texts, text

server = ServerApp()
client = ClientApp()


@client.train()
def train(message, context):
    p = partition(context)
    return answer(
        message,
        first=arrays(a=[p], b=[[p, p + 1]]),
        notes=ConfigRecord({"who": f"client {p}", "raw": bytes([p, 255]), "parts": [1.5, 2.0]}),
        losses={"train": [0.5, p + 0.25], "steps": p},
        second=arrays(),
        times={"s": 0.125},
        empty=ConfigRecord(),
    )


class Gathering(FedAvg):
    def aggregate_train(self, server_round, replies):
        replies = list(replies)
        for line in sorted_texts(replies):
            result(line)
        for kind in ("array_records", "metric_records", "config_records"):
            names = sorted({tuple(getattr(r.content, kind).keys()) for r in replies})
            result(kind, names)
        return None, MetricRecord({"n": len(replies), "list": [1, 2]})


@server.main()
def main(grid, context):
    strategy = Gathering(fraction_evaluate=0.0, configrecord_key="c", arrayrecord_key="model")
    ended = strategy.start(grid, arrays(w=[1.0]), num_rounds=1)
    result(text(ended.arrays), text(RecordDict()), list(ended.train_metrics_clientapp))
