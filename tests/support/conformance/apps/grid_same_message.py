"""The same Message object sent again, or twice at once; one content in many messages."""

import time

from flwr.app import ConfigRecord, Message, MetricRecord, RecordDict
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
    message.content["config"]["touched"] = 1
    return answer(message, metrics={"n": count + 1, "keys": len(message.content["config"])})


@server.main()
def main(grid, context):
    node, other = nodes_by_partition(grid, 2)
    message = ask(node)
    result("fresh", repr(message.metadata.message_id), repr(message.metadata.delivered_at))
    result("once", sorted_texts(grid.send_and_receive([message])))
    result("delivered", message.metadata.delivered_at != "", message.metadata.message_id != "")
    try:
        result("again", sorted_texts(grid.send_and_receive([message], timeout=2.0)))
    except ValueError as error:
        result("again", str(error).partition(":")[0])

    message = ask(node)
    begun = time.monotonic()
    replies = list(grid.send_and_receive([message, message], timeout=2.0))
    result("twice", sorted_texts(replies), time.monotonic() - begun > 1.9)
    result(replies[0].metadata.reply_to_message_id == message.metadata.message_id)
    result("count", sorted_texts(grid.send_and_receive([ask(node)])))

    shared = RecordDict({"config": ConfigRecord({"a": 1})})
    replies = grid.send_and_receive([Message(shared, n, "train") for n in (node, other)])
    result("shared", sorted_texts(replies), dict(shared["config"]))
