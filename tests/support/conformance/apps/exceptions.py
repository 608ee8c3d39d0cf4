"""Clients that raise what is no Exception, or what cannot be pickled."""

import threading

from flwr.app import MetricRecord
from flwr.clientapp import ClientApp
from flwr.serverapp import ServerApp
from kit import answer, answer_partition, ask, nodes_by_partition, partition, result

server = ServerApp()
client = ClientApp()
client.query("partition")(answer_partition)


class Unpicklable(Exception):
    def __init__(self, a, b):
        super().__init__(a)
        self.lock = threading.Lock()


def deep(n):
    return deep(n + 1) + 1


def raising(what):
    if what == "recursion":
        deep(0)
    if what == "cause":
        raise ValueError("outer") from KeyError("inner")
    raise {
        "stop": StopIteration,
        "generator": GeneratorExit,
        "memory": MemoryError("none left"),
        "unpicklable": Unpicklable("a", "b"),
        "group": ExceptionGroup("many", [ValueError(1), KeyError(2)]),
        "assertion": AssertionError("asserted"),
    }[what]


@client.train()
def train(message, context):
    seen = context.state.setdefault("n", MetricRecord({"n": 0}))
    seen["n"] += 1
    if partition(context) == 0:
        raising(message.content["config"]["what"])
    return answer(message, m={"p": partition(context), "n": seen["n"]})


WORDS = ("RecursionError", "StopIteration", "GeneratorExit", "MemoryError", "Unpicklable")
WORDS += ("ExceptionGroup", "outer", "asserted")
ALL = ("recursion", "stop", "generator", "memory", "unpicklable", "group", "cause", "assertion")


def line(reply):
    if not reply.has_error():
        return str(dict(reply.content["m"]))
    return f"error {reply.error.code} {[word for word in WORDS if word in reply.error.reason]}"


@server.main()
def main(grid, context):
    nodes = nodes_by_partition(grid, 2)
    for what in ALL:
        replies = grid.send_and_receive([ask(node, what=what) for node in nodes], timeout=60.0)
        result(what, sorted(map(line, replies)))
