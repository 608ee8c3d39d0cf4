"""SCAFFOLD: two ArrayRecords go out and come back."""

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
    w, c = (message.content[name]["w"].numpy() for name in ("arrays", "control"))
    return answer(
        message,
        arrays=arrays(w=w + 1 - c + partition(context)),
        control=arrays(w=np.full_like(c, 0.5)),
        metrics={"num-examples": 1},
    )


class Scaffold(FedAvg):
    control = np.zeros(3)

    def configure_train(self, server_round, arrays_, config, grid):
        messages = list(super().configure_train(server_round, arrays_, config, grid))
        for message in messages:
            message.content["control"] = arrays(w=self.control)
        return messages

    def aggregate_train(self, server_round, replies):
        contents = [r.content for r in replies if not r.has_error()]
        result("round", server_round, "replies", len(contents), [list(c) for c in contents][:1])
        self.control = self.control + np.mean([c["control"]["w"].numpy() for c in contents], axis=0)
        mean = np.mean([c["arrays"]["w"].numpy() for c in contents], axis=0)
        return arrays(w=mean), MetricRecord({"clients": len(contents)})


@server.main()
def main(grid, context):
    strategy = Scaffold(fraction_evaluate=0.0)
    ended = strategy.start(grid, arrays(w=np.zeros(3)), num_rounds=2)
    result(text(ended.arrays), text(strategy.control))
