"""A loop that takes what is there: quick clients continue while a slow one works."""

import time

from flwr.clientapp import ClientApp
from flwr.serverapp import ServerApp
from kit import answer, answer_partition, ask, nodes_by_partition, partition, result

server = ServerApp()
client = ClientApp()
client.query("partition")(answer_partition)


@client.train()
def train(message, context):
    time.sleep(message.content["config"]["seconds"])
    return answer(message, metrics={"p": partition(context)})


@server.main()
def main(grid, context):
    quick, slow = nodes_by_partition(grid, 2)
    (late,) = grid.push_messages([ask(slow, seconds=6.0)])
    ends = time.monotonic() + 4.0
    answers, waiting = [], []
    while time.monotonic() < ends:
        if not waiting:
            waiting = list(grid.push_messages([ask(quick, seconds=0.01)]))
        found = list(grid.pull_messages([*waiting, late]))
        answers += [reply.content["metrics"]["p"] for reply in found]
        waiting = [] if found else waiting
        time.sleep(0.02)
    result("quick answers", len(answers) > 8, set(answers))
    ends = time.monotonic() + 20.0
    found = []
    while not found and time.monotonic() < ends:
        found = list(grid.pull_messages([late]))
        time.sleep(0.05)
    result("slow", [reply.content["metrics"]["p"] for reply in found])
