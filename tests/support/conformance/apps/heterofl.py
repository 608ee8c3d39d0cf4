"""HeteroFL: a weak client trains and sends fewer columns of the same array."""

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
    width = 4 - partition(context)
    part = message.content["arrays"]["w"].numpy()[:, :width]
    return answer(message, arrays=arrays(w=part + width), metrics={"num-examples": 1})


class HeteroFL(FedAvg):
    def aggregate_train(self, server_round, replies):
        parts = sorted((r.content["arrays"]["w"].numpy() for r in replies), key=lambda p: p.shape)
        result("shapes", [p.shape for p in parts])
        total, count = np.zeros((2, 4)), np.zeros((2, 4))
        for part in parts:
            total[:, : part.shape[1]] += part
            count[:, : part.shape[1]] += 1
        return arrays(w=total / count), MetricRecord({"round": server_round})


@server.main()
def main(grid, context):
    strategy = HeteroFL(fraction_evaluate=0.0)
    result(text(strategy.start(grid, arrays(w=np.zeros((2, 4))), num_rounds=2).arrays))
