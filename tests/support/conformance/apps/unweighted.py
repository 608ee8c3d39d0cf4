"""Replies without num-examples, for a strategy that does not need it; zero and float weights."""

from flwr.app import MetricRecord
from flwr.clientapp import ClientApp
from flwr.serverapp import ServerApp
from flwr.serverapp.strategy import FedAvg
from kit import answer, arrays, partition, result, text

server = ServerApp()
client = ClientApp()


@client.train()
def train(message, context):
    w = message.content["arrays"]["w"].numpy() + partition(context)
    weights = {"none": {}, "zero": {"num-examples": partition(context) % 2 * 2}}
    weights["float"] = {"share": [0.25, 0.25, 0.5][partition(context)]}
    metrics = weights[message.content["config"]["weights"]]
    return answer(message, arrays=arrays(w=w), metrics={"m": 2.0, **metrics})


class Plain(FedAvg):
    def aggregate_train(self, server_round, replies):
        found = sorted(float(r.content["arrays"]["w"].numpy()[0]) for r in replies)
        result("found", found, sorted(text(r.content["metrics"]) for r in replies))
        return arrays(w=[sum(found)]), MetricRecord({"n": len(found)})


@server.main()
def main(grid, context):
    from flwr.app import ConfigRecord

    runs = {
        "none": Plain(fraction_evaluate=0.0),
        "zero": FedAvg(fraction_evaluate=0.0),
        "float": FedAvg(fraction_evaluate=0.0, weighted_by_key="share"),
    }
    for name, strategy in runs.items():
        config = ConfigRecord({"weights": name})
        ended = strategy.start(grid, arrays(w=[1.0]), num_rounds=2, train_config=config)
        result(name, text(ended.arrays), list(map(text, ended.train_metrics_clientapp.values())))
