"""Unknown nodes and unknown messages: who is served, what is answered, what is raised."""

from flwr.app import Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import ServerApp
from kit import answer, answer_partition, ask, nodes_by_partition, partition, result, sorted_texts

server = ServerApp()
client = ClientApp()
client.query("partition")(answer_partition)


@client.train()
def train(message, context):
    return answer(message, metrics={"p": partition(context)})


def tried(call, *arguments, **named):
    try:
        return sorted_texts(call(*arguments, **named))
    except Exception as error:
        return type(error).__name__


@server.main()
def main(grid, context):
    nodes = nodes_by_partition(grid, 3)
    unknown = 987654321
    result("beside known", tried(grid.send_and_receive, [ask(n) for n in (*nodes, unknown)]))
    result("alone", tried(grid.send_and_receive, [ask(unknown)]))
    result("pushed", len(list(grid.push_messages([ask(unknown), ask(nodes[0]), ask(0)]))))
    result("still", tried(grid.send_and_receive, [ask(n) for n in nodes]))

    (reply,) = grid.pull_messages(["nope"])
    result("unknown id", reply.error.code, reply.error.reason)
    told = reply.metadata
    result(told.src_node_id == told.dst_node_id, told.reply_to_message_id, repr(told.group_id))
    result(told.message_type, told.ttl, repr(told.delivered_at), told.message_id != "")
    result("twice asked", tried(grid.pull_messages, ["a", "a", "b"]))

    message = ask(nodes[1])
    (name,) = grid.push_messages([message])
    result("id", name == message.metadata.message_id, type(name).__name__)
    found = []
    while not found:
        found = list(grid.pull_messages([name]))
    result("pulled", sorted_texts(found), "and again", tried(grid.pull_messages, [name]))
    result("with unknown", tried(grid.pull_messages, [name, "other"]))

    result("string", tried(grid.push_messages, ["x"]))
    result("negative ttl", tried(grid.push_messages, [ask(nodes[0], ttl=-1.0)]))
    for kind in ("foo", "train.1x", "train.a.b", ""):
        try:
            Message(RecordDict(), nodes[0], kind)
        except ValueError as error:
            result("kind", error)
