"""A timeout ends the waiting, not the work: state is kept and the reply can be pulled later."""

import time

from flwr.app import MetricRecord
from flwr.clientapp import ClientApp
from flwr.serverapp import ServerApp
from flwr.serverapp.strategy import FedAvg
from kit import (
    answer,
    answer_partition,
    arrays,
    ask,
    nodes_by_partition,
    partition,
    result,
    sorted_texts,
    text,
)

server = ServerApp()
client = ClientApp()
client.query("partition")(answer_partition)


@client.query("count")
def count_of(message, context):
    return answer(message, metrics=dict(context.state["count"]))


@client.train()
def train(message, context):
    count = context.state["count"]["n"] if "count" in context.state else 0
    context.state["count"] = MetricRecord({"n": count + 1})
    config = message.content["config"]
    slow = partition(context) == 0 and config.get("server-round", 0) == 1
    time.sleep(config.get("seconds", 9.0 if slow else 0.0))
    metrics = {"num-examples": 1, "n": count + 1}
    return answer(message, arrays=arrays(w=[1.0]), metrics=metrics)


def counts(grid, nodes):
    queries = [ask(node, "query.count") for node in nodes]
    result("counts", sorted_texts(grid.send_and_receive(queries)))


@server.main()
def main(grid, context):
    slow, quick = nodes_by_partition(grid, 2)
    messages = [ask(slow, seconds=10.0), ask(quick, seconds=0.0)]
    begun = time.monotonic()
    replies = grid.send_and_receive(messages, timeout=5.0)
    result("in time", sorted_texts(replies), time.monotonic() - begun < 9.0)
    names = [message.metadata.message_id for message in messages]
    time.sleep(9.0)
    result("late", sorted_texts(grid.pull_messages(names[:1])))
    result("pulled before", sorted_texts(grid.pull_messages(names[1:])))
    counts(grid, (slow, quick))

    result("none", list(grid.send_and_receive([ask(quick, seconds=0.0)], timeout=0)))
    time.sleep(3.0)
    counts(grid, (slow, quick))

    strategy = FedAvg(fraction_evaluate=0.0)
    ended = strategy.start(grid, arrays(w=[0.0]), num_rounds=1, timeout=5.0)
    result(text(ended.arrays), {k: text(v) for k, v in ended.train_metrics_clientapp.items()})
    time.sleep(8.0)
    counts(grid, (slow, quick))
