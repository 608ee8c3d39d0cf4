"""Replies whose metadata the client sets: what reaches the server, and what is dropped."""

import time

from flwr.app import ConfigRecord, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import ServerApp
from kit import answer, answer_partition, nodes_by_partition, result, text

server = ServerApp()
client = ClientApp()
client.query("partition")(answer_partition)
KEPT = []
SENT = ("plain", "own ttl", "set ttl", "type", "own type", "group", "no group", "content")
DROPPED = ("kept", "negative ttl", "created", "source", "target", "delivered", "no type", "short")


def changed(reply, what):
    metadata = reply.metadata
    if what == "set ttl":
        metadata.ttl = 33.0
    if what == "negative ttl":
        metadata.ttl = -5.0
    if what == "type":
        metadata.message_type = "evaluate"
    if what in ("own type", "no type"):
        vars(metadata)["_message_type"] = "whatever" if what == "own type" else ""
    if what in ("group", "no group"):
        metadata.group_id = "another" if what == "group" else ""
    if what == "created":
        vars(metadata)["_created_at"] = time.time() - 1000
    if what == "source":
        vars(metadata)["_src_node_id"] = 12345
    if what == "target":
        vars(metadata)["_dst_node_id"] = 12345
    if what == "delivered":
        metadata.delivered_at = "2020"
    if what == "content":
        reply.content = RecordDict({"other": MetricRecord({"z": 1})})


@client.train("sub")
def train(message, context):
    what = message.content["config"]["what"]
    if what == "own ttl":
        return Message(RecordDict(), reply_to=message, ttl=50.0)
    if what == "short":
        reply = Message(RecordDict(), reply_to=message, ttl=0.05)
        time.sleep(0.2)
        return reply
    reply = answer(message, m={"n": 1})
    changed(reply, what)
    if what in ("plain", "kept"):
        KEPT.append(reply)
        return KEPT[0]
    return reply


@server.main()
def main(grid, context):
    node = nodes_by_partition(grid, 1)[0]
    for what in SENT + DROPPED:
        content = RecordDict({"config": ConfigRecord({"what": what})})
        sent = Message(content, node, "train.sub", group_id="g", ttl=100.0)
        replies = list(grid.send_and_receive([sent], timeout=2.5))
        result(what, len(replies))
        for reply in replies:
            found = reply.metadata
            result(text(reply.content), found.message_type, found.group_id, round(found.ttl, -1))
            result(found.src_node_id == node, found.reply_to_message_id == sent.metadata.message_id)
