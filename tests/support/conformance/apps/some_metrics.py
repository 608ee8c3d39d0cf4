"""Metrics that only some clients have, merged by functions of the app's own."""

from flwr.app import MetricRecord
from flwr.clientapp import ClientApp
from flwr.serverapp import ServerApp
from flwr.serverapp.strategy import FedAvg
from kit import answer, arrays, partition, result, text

server = ServerApp()
client = ClientApp()


def domain(context):
    return ["photo", "sketch", "photo"][partition(context)]


@client.train()
def train(message, context):
    metrics = {"num-examples": 1, f"loss-{domain(context)}": 1.0 + partition(context)}
    return answer(message, arrays=message.content["arrays"], metrics=metrics)


@client.evaluate()
def evaluate(message, context):
    own = {f"right-{domain(context)}": 2 * partition(context), "num-examples": 2}
    return answer(message, metrics=own)


def merged(contents, key):
    found = MetricRecord()
    for content in contents:
        for name, value in content["metrics"].items():
            found[name] = found.get(name, 0) + value
    return MetricRecord(dict(sorted(found.items())))


class Checked(FedAvg):
    def aggregate_train(self, server_round, replies):
        contents = [r.content for r in replies]
        return contents[0]["arrays"], merged(contents, "")

    def aggregate_evaluate(self, server_round, replies):
        return merged([r.content for r in replies], "")


@server.main()
def main(grid, context):
    ended = Checked().start(grid, arrays(w=[1.0]), num_rounds=2)
    for found in (ended.train_metrics_clientapp, ended.evaluate_metrics_clientapp):
        result({k: text(v) for k, v in found.items()})
    # FedAvg itself asks for equal keys, and says so.
    try:
        FedAvg(train_metrics_aggr_fn=merged).start(grid, arrays(w=[1.0]), num_rounds=1)
    except Exception as error:
        result(type(error).__name__, error)
