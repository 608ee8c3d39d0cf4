"""Replies that FedAvg refuses end the app with Flower's exception."""

from flwr.clientapp import ClientApp
from flwr.serverapp import ServerApp
from flwr.serverapp.strategy import FedAvg
from kit import answer, arrays, result

server = ServerApp()
client = ClientApp()


@client.train()
def train(message, context):
    return answer(message, arrays=message.content["arrays"], first={"loss": 1.0})


@server.main()
def main(grid, context):
    result("begins")
    FedAvg(fraction_evaluate=0.0).start(grid, arrays(w=[1.0]), num_rounds=2)
    result("never reached")
