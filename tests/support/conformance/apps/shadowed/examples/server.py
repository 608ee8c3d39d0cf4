"""A server in a package that others are named like."""

import numpy as np
from flwr.app import Array, ArrayRecord
from flwr.serverapp import ServerApp
from flwr.serverapp.strategy import FedAvg
from task.data import NAME

import benchmarks

app = ServerApp()


class Told(FedAvg):
    def aggregate_train(self, server_round, replies):
        for reply in list(replies)[:1]:
            shown = dict(reply.content["said"]) if reply.has_content() else reply.error.reason
            print("RESULT", shown, flush=True)
        return super().aggregate_train(server_round, replies)


@app.main()
def main(grid, context):
    print("RESULT", NAME, benchmarks.__doc__)
    ended = Told(fraction_evaluate=0.0).start(
        grid, ArrayRecord({"w": Array(np.zeros(2))}), num_rounds=1
    )
    print("RESULT", ended.arrays["w"].numpy().tolist(), dict(ended.train_metrics_clientapp[1]))
