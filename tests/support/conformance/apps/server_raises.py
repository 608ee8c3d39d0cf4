"""The ServerApp raises in the middle: exit code 1, what was printed before stays."""

from flwr.clientapp import ClientApp
from flwr.serverapp import ServerApp
from flwr.serverapp.strategy import FedAvg
from kit import answer, arrays, result

server = ServerApp()
client = ClientApp()


@client.train()
def train(message, context):
    return answer(message, arrays=message.content["arrays"], metrics={"num-examples": 1})


class Failing(FedAvg):
    def aggregate_train(self, server_round, replies):
        if server_round == 2:
            raise LookupError("gone in round 2")
        return super().aggregate_train(server_round, replies)


@server.main()
def main(grid, context):
    try:
        Failing(fraction_evaluate=0.0).start(grid, arrays(w=[1.0]), num_rounds=3)
    finally:
        result("the app's own finally")
