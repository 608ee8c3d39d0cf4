"""A Grid that wraps ours: it counts what goes through, and a strategy knows nothing of it."""

from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAdam, FedAvg
from kit import answer, arrays, partition, result, text

server = ServerApp()
client = ClientApp()


@client.train()
def train(message, context):
    w = message.content["arrays"]["w"].numpy() + partition(context)
    return answer(message, arrays=arrays(w=w), metrics={"num-examples": 1, "loss": 0.25})


@client.evaluate()
def evaluate(message, context):
    return answer(message, metrics={"num-examples": 1, "acc": 0.5})


class Counting(Grid):
    def __init__(self, grid):
        self.grid, self.calls = grid, []

    def note(self, name, value):
        self.calls.append((name, value))

    def set_run(self, run):
        self.grid.set_run(run)

    @property
    def run(self):
        return self.grid.run

    def create_message(self, *arguments, **named):
        return self.grid.create_message(*arguments, **named)

    def get_node_ids(self):
        found = list(self.grid.get_node_ids())
        if len(found) >= 4:
            self.note("nodes", len(found))
        return found

    def push_messages(self, messages):
        return self.grid.push_messages(messages)

    def pull_messages(self, message_ids):
        return self.grid.pull_messages(message_ids)

    def send_and_receive(self, messages, *, timeout=None):
        messages = list(messages)
        replies = list(self.grid.send_and_receive(messages, timeout=timeout))
        kinds = sorted({message.metadata.message_type for message in messages})
        self.note("exchange", (len(messages), kinds, timeout, len(replies)))
        return replies


class Plain:
    """No Grid by type: only what a strategy calls."""

    def __init__(self, grid):
        self.grid = grid

    def get_node_ids(self):
        return self.grid.get_node_ids()

    def send_and_receive(self, messages, *, timeout=None):
        return iter(list(self.grid.send_and_receive(messages, timeout=timeout)))


@server.main()
def main(grid, context):
    while len(list(grid.get_node_ids())) < 4:
        pass
    for strategy in (FedAvg(), FedAdam(fraction_evaluate=0.0)):
        counting = Counting(grid)
        ended = strategy.start(counting, arrays(w=[0.0, 1.0]), num_rounds=2, timeout=77)
        result(text(ended.arrays), list(map(text, ended.train_metrics_clientapp.values())))
        for call in counting.calls:
            result(*call)
    ended = FedAvg().start(Plain(grid), arrays(w=[0.0]), num_rounds=1)
    result(text(ended.arrays))
