"""Node ids used as the set that Flower returns; messages to a node in several groups."""

from flwr.app import ConfigRecord, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import ServerApp
from kit import answer, answer_partition, nodes_by_partition, result, text, wait_for

server = ServerApp()
client = ClientApp()
client.query("partition")(answer_partition)


@client.train()
def train(message, context):
    seen = context.state.setdefault("seen", MetricRecord({"all": []}))
    seen["all"] = [*seen["all"], message.content["config"]["i"]]
    return answer(message, seen=seen)


def without(ids, node):
    ids.discard(node)
    ids.discard(node)
    return len(ids)


def emptied(ids):
    found = 0
    while ids:
        found += ids.pop() > 0
    return found, len(ids)


def updated(ids):
    ids |= {3}
    ids.update([5], [7])
    ids.remove(3)
    return len(ids)


@server.main()
def main(grid, context):
    nodes = nodes_by_partition(grid, 3)
    wait_for(grid, 3)
    ids = grid.get_node_ids
    few = set(nodes[:2])
    result(len(ids() - few), len(ids() & few), ids() >= few, ids() == set(nodes), nodes[0] in ids())
    result(len(ids().difference(few)), len(ids().intersection(few)), ids().issuperset(few))
    result(len(ids().symmetric_difference(few)), few.issubset(ids()), ids().isdisjoint(few))
    result(without(ids(), nodes[0]), emptied(ids()), len(ids().copy()), type(ids().copy()).__name__)
    result(len(ids()), len(sorted(ids())), len(set(ids()) | ids()))
    try:
        ids().remove(0)
    except KeyError as error:
        result("KeyError", error)
    sent = [
        Message(
            RecordDict({"config": ConfigRecord({"i": i})}),
            nodes[i % 2],
            "train",
            group_id=str(9 - i),
            ttl=1000.0 - i,
        )
        for i in range(8)
    ]
    list(grid.send_and_receive(sent))
    last = [Message(RecordDict({"config": ConfigRecord({"i": 8})}), n, "train") for n in nodes[:2]]
    for reply in sorted(grid.send_and_receive(last), key=lambda r: list(r.content["seen"]["all"])):
        result("in order", text(reply.content))
