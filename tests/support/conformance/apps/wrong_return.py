"""Clients that return None or the request itself never answer; the others are served."""

from flwr.clientapp import ClientApp
from flwr.serverapp import ServerApp
from kit import answer, answer_partition, ask, nodes_by_partition, result, sorted_texts

server = ServerApp()
client = ClientApp()
client.query("partition")(answer_partition)


@client.train()
def train(message, context):
    what = message.content["config"]["what"]
    if what == "nothing":
        return None
    if what == "request":
        return message
    return answer(message, metrics={"fine": 1})


@server.main()
def main(grid, context):
    nodes = nodes_by_partition(grid, 3)
    for what in ("nothing", "request"):
        messages = [ask(nodes[0], what=what), ask(nodes[1], what="answer")]
        result(what, sorted_texts(grid.send_and_receive(messages, timeout=4.0)))
        result(what, sorted_texts(grid.pull_messages([messages[0].metadata.message_id])))
    result(sorted_texts(grid.send_and_receive([ask(n, what="answer") for n in nodes])))
