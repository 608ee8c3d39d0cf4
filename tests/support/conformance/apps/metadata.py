"""A message's metadata, as the client and then the server sees it."""

import time

from flwr.app import ConfigRecord, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import ServerApp
from kit import result, wait_for

server = ServerApp()
client = ClientApp()


@client.train("own_action")
def train(message, context):
    sent = message.metadata
    seen = {
        "type": sent.message_type,
        "group": sent.group_id,
        "reply-to": sent.reply_to_message_id,
        "src": sent.src_node_id,
        "mine": sent.dst_node_id == context.node_id,
        "ttl": float(sent.ttl),
        "delivered": sent.delivered_at != "",
        "has-id": len(sent.message_id) > 0,
        "id": sent.message_id,
        "created": sent.created_at,
        "content": message.has_content() and not message.has_error(),
    }
    return Message(RecordDict({"seen": ConfigRecord(seen)}), reply_to=message)


@server.main()
def main(grid, context):
    node = wait_for(grid, 2)[0]
    for message in (
        Message(RecordDict(), node, "train.own_action", ttl=90.5, group_id="a group"),
        Message(RecordDict(), dst_node_id=node, message_type="train.own_action"),
        grid.create_message(RecordDict(), "train.own_action", node, "7", ttl=50.0),
        grid.create_message(RecordDict(), "train.own_action", node, ""),
    ):
        before = time.time()
        (reply,) = grid.send_and_receive([message])
        seen = dict(reply.content["seen"])
        sent, got = message.metadata, reply.metadata
        result("own", seen.pop("id") == sent.message_id, seen.pop("created") == sent.created_at)
        result("seen", sorted(seen.items()))
        result(got.message_type, repr(got.group_id), got.run_id == sent.run_id == context.run_id)
        result(got.src_node_id == node, got.dst_node_id, sent.src_node_id)
        result(
            got.reply_to_message_id == sent.message_id, got.message_id not in ("", sent.message_id)
        )
        result("times", sent.created_at <= got.created_at, before - 0.001 <= got.created_at)
        lives = sent.created_at + sent.ttl - got.created_at
        result("ttl", abs(got.ttl - lives) < 0.01, got.ttl < sent.ttl)
        result("delivered", sent.delivered_at[10:11], got.delivered_at[10:11])
