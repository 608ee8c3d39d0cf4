"""What the terminal shows: prints of both sides, Flower's rounds, metrics and final results."""

import logging
import sys
import time

from flwr.app import MetricRecord
from flwr.clientapp import ClientApp
from flwr.common.logger import log
from flwr.serverapp import ServerApp
from flwr.serverapp.strategy import FedAvg
from kit import answer, arrays, partition, result, text, wait_for

server = ServerApp()
client = ClientApp()


@client.train()
def train(message, context):
    p, r = partition(context), message.content["config"]["server-round"]
    print(f"CLIENT {p} of {context.node_config['num-partitions']} trains in round {r}")
    w = message.content["arrays"]["w"].numpy() + p
    metrics = {"num-examples": 1, "precision": 0.5, "train-loss": 2.0 * p}
    return answer(message, arrays=arrays(w=w), metrics=metrics)


@client.evaluate()
def evaluate(message, context):
    print(f"CLIENT {partition(context)} judges", file=sys.stderr)
    return answer(message, metrics={"num-examples": 1, "f1": 0.25})


@server.main()
def main(grid, context):
    wait_for(grid, 1)
    time.sleep(0.5)
    ended = FedAvg().start(
        grid,
        arrays(w=[0.0]),
        num_rounds=2,
        evaluate_fn=lambda r, a: MetricRecord({"central": float(a["w"].numpy()[0]), "round": r}),
    )
    log(logging.INFO, "the app's own line")
    result("nodes", len(list(grid.get_node_ids())), sorted(context.run_config.items()))
    result("run", grid.run.fab_id, grid.run.fab_version, sorted(grid.run.override_config.items()))
    print("FAB HASH", grid.run.fab_hash)
    result(text(ended.arrays), text(context.node_config), context.node_id)
    if context.run_config["fails"]:
        raise LookupError("the app's last word")
