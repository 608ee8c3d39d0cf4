"""Strategies that run at once, in threads of the app, and one that starts another within it."""

from concurrent.futures import ThreadPoolExecutor

from flwr.app import MetricRecord
from flwr.clientapp import ClientApp
from flwr.serverapp import ServerApp
from flwr.serverapp.strategy import FedAvg, FedMedian
from kit import answer, arrays, partition, result, text, wait_for

server = ServerApp()
client = ClientApp()


@client.train()
def train(message, context):
    w = message.content["arrays"]["w"].numpy()
    # The median of 0, 1, 2, 9 is another than their mean.
    moved = w + (9 if partition(context) == 3 else partition(context))
    return answer(message, arrays=arrays(w=moved), metrics={"num-examples": 1, "w": float(w[0])})


@client.evaluate()
def evaluate(message, context):
    w = message.content["arrays"]["w"].numpy()
    return answer(message, metrics={"num-examples": 1, "w": float(w[0])})


def shown(ended):
    metrics = ended.train_metrics_clientapp, ended.evaluate_metrics_clientapp
    return text(ended.arrays), [{k: text(v) for k, v in of.items()} for of in metrics]


@server.main()
def main(grid, context):
    wait_for(grid, 4)

    def run(start):
        kind = FedAvg if start < 100 else FedMedian
        return shown(kind().start(grid, arrays(w=[float(start)]), num_rounds=3))

    with ThreadPoolExecutor(4) as pool:
        for found in pool.map(run, (0, 100, 16, 228)):
            result("at once", *found)

    def inner(server_round, a):
        ended = FedMedian(fraction_evaluate=0.0).start(grid, a, num_rounds=1)
        return MetricRecord({"inner": float(ended.arrays["w"].numpy()[0])})

    ended = FedAvg().start(grid, arrays(w=[0.0]), num_rounds=2, evaluate_fn=inner)
    result("nested", *shown(ended))
    result({k: text(v) for k, v in ended.evaluate_metrics_serverapp.items()})
