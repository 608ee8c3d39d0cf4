"""Arrays of some megabytes, out and back, under FedAvg and reply by reply."""

import numpy as np
from flwr.app import MetricRecord
from flwr.clientapp import ClientApp
from flwr.serverapp import ServerApp
from flwr.serverapp.strategy import FedAvg
from kit import answer, arrays, partition, result

server = ServerApp()
client = ClientApp()


@client.train()
def train(message, context):
    moved = {k: v.numpy() + (partition(context) + 1) for k, v in message.content["arrays"].items()}
    return answer(message, arrays=arrays(**moved), metrics={"num-examples": 1, "list": [1.0, 0.5]})


class Last(FedAvg):
    def aggregate_train(self, server_round, replies):
        every = sorted(replies, key=lambda r: r.content["arrays"]["a"].numpy()[0, 0])
        return every[-1].content["arrays"], MetricRecord({"n": len(every)})


@server.main()
def main(grid, context):
    sent = arrays(a=np.zeros((1500, 1000), np.float32), b=np.zeros((1000, 300)), c=np.zeros(3))
    for strategy in (FedAvg(fraction_evaluate=0.0), Last(fraction_evaluate=0.0)):
        ended = strategy.start(grid, sent, num_rounds=2)
        for name, array in ended.arrays.items():
            values = array.numpy()
            result(name, values.dtype, values.shape, values.min(), values.max())
        result([dict(m) for m in ended.train_metrics_clientapp.values()])
