"""Time to live: what has expired is not delivered, and its reply is not handed out."""

import time

from flwr.app import DEFAULT_TTL, MetricRecord
from flwr.clientapp import ClientApp
from flwr.serverapp import ServerApp
from kit import answer, answer_partition, ask, nodes_by_partition, result, sorted_texts

server = ServerApp()
client = ClientApp()
client.query("partition")(answer_partition)


@client.train()
def train(message, context):
    count = context.state["count"]["n"] if "count" in context.state else 0
    context.state["count"] = MetricRecord({"n": count + 1})
    time.sleep(message.content["config"].get("seconds", 0.0))
    ttl = message.metadata.created_at + message.metadata.ttl
    return answer(message, metrics={"n": count + 1, "default": int(ttl > time.time() + 40_000)})


@server.main()
def main(grid, context):
    node, other = nodes_by_partition(grid, 2)
    result("default", DEFAULT_TTL, ask(node).metadata.ttl, ask(node, ttl=0).metadata.ttl)
    begun = time.monotonic()
    replies = grid.send_and_receive([ask(node, ttl=1.5, seconds=10.0), ask(other)])
    # It does not wait for the client, which is slow enough to tell on a loaded machine.
    result("exchange", sorted_texts(replies), 1.0 < time.monotonic() - begun < 9.5)

    time.sleep(10.0)
    result("state", sorted_texts(grid.send_and_receive([ask(node)])))

    (name,) = grid.push_messages([ask(node, ttl=2.0, seconds=3.5)])
    time.sleep(0.3)
    result("before", sorted_texts(grid.pull_messages([name])))
    time.sleep(4.5)
    result("after", sorted_texts(grid.pull_messages([name])))

    (name,) = grid.push_messages([ask(node, ttl=2.5)])
    time.sleep(3.5)
    result("answered, not pulled", sorted_texts(grid.pull_messages([name])))
    result("state", sorted_texts(grid.send_and_receive([ask(node)])))
    expired = ask(node, ttl=0.2)
    time.sleep(0.3)
    result("expired when pushed", sorted_texts(grid.send_and_receive([expired], timeout=2.0)))
    result("state", sorted_texts(grid.send_and_receive([ask(node)])))
