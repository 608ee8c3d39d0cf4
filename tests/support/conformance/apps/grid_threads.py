"""The older driver's way: send_and_receive from a thread for each client, several times."""

import threading
from concurrent.futures import ThreadPoolExecutor

from flwr.clientapp import ClientApp
from flwr.serverapp import ServerApp
from kit import answer, answer_partition, ask, nodes_by_partition, partition, result

server = ServerApp()
client = ClientApp()
client.query("partition")(answer_partition)


@client.train()
def train(message, context):
    place = message.content["config"]["place"]
    return answer(message, metrics={"p": partition(context), "place": place})


@client.evaluate()
def evaluate(message, context):
    return answer(message, metrics={"e": partition(context)})


@server.main()
def main(grid, context):
    nodes = nodes_by_partition(grid, 4)

    def one(job):
        place, node = job
        kind = "train" if place % 3 else "evaluate"
        (reply,) = grid.send_and_receive([ask(node, kind, place=place)], timeout=30.0)
        return place, kind, reply.metadata.src_node_id == node, dict(reply.content["metrics"])

    jobs = [(place, nodes[place % 4]) for place in range(16)]
    with ThreadPoolExecutor(8) as threads:
        for line in threads.map(one, jobs):
            result(*line)

    # A push while another thread waits for its exchange is answered too.
    found = []
    waiter = threading.Thread(
        target=lambda: found.extend(grid.send_and_receive([ask(n, place=1) for n in nodes]))
    )
    waiter.start()
    names = list(grid.push_messages([ask(nodes[0], "evaluate"), ask(nodes[3], place=9)]))
    pulled = []
    while len(pulled) < 2:
        pulled += grid.pull_messages(
            [n for n in names if n not in {r.metadata.reply_to_message_id for r in pulled}]
        )
    waiter.join()
    result(len(found), sorted(str(dict(r.content["metrics"])) for r in pulled))
