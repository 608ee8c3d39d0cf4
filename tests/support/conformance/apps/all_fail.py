"""Every client fails in every round: stock continues to the end and to exit code 0."""

from flwr.clientapp import ClientApp
from flwr.serverapp import ServerApp
from flwr.serverapp.strategy import FedAvg
from kit import arrays, result, text

server = ServerApp()
client = ClientApp()


@client.train()
def train(message, context):
    raise ValueError("no data here")


@server.main()
def main(grid, context):
    ended = FedAvg().start(grid, arrays(w=[1.0]), num_rounds=2)
    result(text(ended.arrays), ended.train_metrics_clientapp, ended.evaluate_metrics_clientapp)
