"""NaN means "missing": in arrays, in metrics, under FedAvg too."""

import numpy as np
from flwr.app import MetricRecord
from flwr.clientapp import ClientApp
from flwr.serverapp import ServerApp
from flwr.serverapp.strategy import FedAvg
from kit import answer, arrays, partition, result, text

server = ServerApp()
client = ClientApp()


@client.train()
def train(message, context):
    table = np.arange(12.0).reshape(3, 4) + partition(context)
    table[:, partition(context)] = np.nan
    loss = float("nan") if partition(context) == 1 else float("inf")
    metrics = {"num-examples": 3, "loss": loss, "low": -loss, "fine": 0.5}
    return answer(message, arrays=arrays(means=table.mean(axis=0)), metrics=metrics)


class NanMean(FedAvg):
    def aggregate_train(self, server_round, replies):
        rows = [r.content["arrays"]["means"].numpy() for r in replies if not r.has_error()]
        result("rows", len(rows))
        return arrays(means=np.nanmean(rows, axis=0)), MetricRecord({"rows": len(rows)})


@server.main()
def main(grid, context):
    for strategy in (NanMean(fraction_evaluate=0.0), FedAvg(fraction_evaluate=0.0)):
        ended = strategy.start(grid, arrays(means=np.zeros(4)), num_rounds=1)
        result(text(ended.arrays))
        for metrics in ended.train_metrics_clientapp.values():
            result(text(metrics))
