"""Some clients raise, some answer with an Error; FedAvg continues with the others."""

from flwr.app import Error, Message
from flwr.clientapp import ClientApp
from flwr.serverapp import ServerApp
from flwr.serverapp.strategy import FedAvg
from kit import answer, arrays, partition, result, text

server = ServerApp()
client = ClientApp()


class OwnError(Exception):
    def __init__(self, a, b):
        super().__init__(f"{a} and {b}")


@client.train()
def train(message, context):
    if partition(context) == 0:
        raise KeyError(1)
    if partition(context) == 1:
        raise OwnError("this", "that\nmore")
    if partition(context) == 2:
        return Message(Error(code=77, reason="mine"), reply_to=message)
    w = message.content["arrays"]["w"].numpy() + 1
    return answer(message, arrays=arrays(w=w), metrics={"num-examples": 1, "loss": 0.5})


@client.evaluate()
def evaluate(message, context):
    raise ZeroDivisionError("never")


class Seeing(FedAvg):
    def aggregate_train(self, server_round, replies):
        self.tell(server_round, "train", replies)
        return super().aggregate_train(server_round, replies)

    def aggregate_evaluate(self, server_round, replies):
        self.tell(server_round, "evaluate", replies)
        return super().aggregate_evaluate(server_round, replies)

    def tell(self, server_round, kind, replies):
        for line in sorted(map(self.line, replies)):
            result(server_round, kind, line)

    def line(self, reply):
        if not reply.has_error():
            return "content"
        words = ("KeyError", "OwnError", "this and that", "ZeroDivisionError", "never", "mine")
        found = [word for word in words if word in reply.error.reason]
        return f"error {reply.error.code} {found} {reply.has_content()}"


@server.main()
def main(grid, context):
    ended = Seeing().start(grid, arrays(w=[1.0]), num_rounds=2)
    result(text(ended.arrays), list(map(text, ended.train_metrics_clientapp.values())))
    result(ended.evaluate_metrics_clientapp)
