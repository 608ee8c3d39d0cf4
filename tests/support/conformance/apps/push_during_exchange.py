"""Messages pushed before and while an exchange runs; each answer goes to who asked."""

import threading
import time

from flwr.clientapp import ClientApp
from flwr.serverapp import ServerApp
from kit import answer, answer_partition, ask, nodes_by_partition, result, sorted_texts

server = ServerApp()
client = ClientApp()
client.query("partition")(answer_partition)


@client.train()
def train(message, context):
    time.sleep(message.content["config"].get("seconds", 0.0))
    return answer(message, metrics={"told": message.content["config"]["told"]})


def pulled(grid, names, seconds=20.0):
    found, ends = [], time.monotonic() + seconds
    while len(found) < len(names) and time.monotonic() < ends:
        there = {reply.metadata.reply_to_message_id for reply in found}
        found += grid.pull_messages([name for name in names if name not in there])
        time.sleep(0.05)
    return sorted_texts(found)


@server.main()
def main(grid, context):
    nodes = nodes_by_partition(grid, 3)
    names = list(grid.push_messages([ask(nodes[0], told=1, seconds=0.5)]))
    others = grid.send_and_receive([ask(n, told=10 + i) for i, n in enumerate(nodes[1:])])
    result("exchange", sorted_texts(others))
    result("pushed before", pulled(grid, names))

    names.clear()

    def push_later():
        time.sleep(0.5)
        names.extend(grid.push_messages([ask(nodes[2], told=2), ask(nodes[0], told=3)]))

    pusher = threading.Thread(target=push_later)
    pusher.start()
    begun = time.monotonic()
    slow = grid.send_and_receive([ask(nodes[1], told=20, seconds=4.0)])
    result("exchange", sorted_texts(slow), time.monotonic() - begun > 3.9)
    pusher.join()
    result("pushed while", pulled(grid, names, 5.0))
