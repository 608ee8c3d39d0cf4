"""Empty replies, empty messages, empty records; a strategy that returns nothing."""

from flwr.app import ConfigRecord, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import ServerApp
from flwr.serverapp.strategy import FedAvg
from kit import ask, result, sorted_texts, text, wait_for

server = ServerApp()
client = ClientApp()


@client.train()
def train(message, context):
    return Message(RecordDict(), reply_to=message)


@client.evaluate()
def evaluate(message, context):
    return Message(RecordDict({"m": MetricRecord(), "c": ConfigRecord()}), reply_to=message)


@client.query()
def query(message, context):
    return Message(message.content, reply_to=message)


class Nothing(FedAvg):
    def aggregate_train(self, server_round, replies):
        result("train", sorted_texts(replies))
        return None, None

    def aggregate_evaluate(self, server_round, replies):
        result("evaluate", sorted_texts(replies))


@server.main()
def main(grid, context):
    from kit import arrays

    ended = Nothing().start(grid, arrays(), num_rounds=2)
    result(text(ended.arrays), ended.train_metrics_clientapp, ended.evaluate_metrics_clientapp)
    nodes = wait_for(grid, 3)
    empty = [Message(RecordDict(), node, "query") for node in nodes]
    result(sorted_texts(grid.send_and_receive(empty)))
    result(sorted_texts(grid.send_and_receive([ask(node, "query") for node in nodes])))
    result(
        list(grid.send_and_receive([])), list(grid.push_messages([])), list(grid.pull_messages([]))
    )
