"""Records of derived classes, Flower's older names among them, there and back."""

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.common import ConfigsRecord, MetricsRecord, ParametersRecord, RecordSet
from flwr.serverapp import ServerApp
from kit import answer, result, text, wait_for

server = ServerApp()
client = ClientApp()


class OwnMetrics(MetricRecord):
    def doubled(self):
        return 2 * self["x"]


class OwnArrays(ArrayRecord):
    def __init__(self, first, second):
        super().__init__({"first": first, "second": second})


class OwnDict(RecordDict):
    pass


def named(records):
    return ConfigRecord({name: type(record).__name__ for name, record in records.items()})


@client.query()
def query(message, context):
    content = message.content
    found = named(content)
    found["content"] = type(content).__name__
    found["old"] = isinstance(content.get("p"), ParametersRecord)
    if "m" in content and isinstance(content["m"], OwnMetrics):
        found["doubled"] = content["m"].doubled()
    reply = answer(message, found=found)
    return Message(OwnDict({**reply.content, **content}), reply_to=message)


@server.main()
def main(grid, context):
    array = Array(np.ones(1))
    own = OwnDict({"m": OwnMetrics({"x": 2}), "a": OwnArrays(array, array)})
    old = RecordSet(
        {
            "p": ParametersRecord({"w": array}),
            "m": MetricsRecord({"n": 1}),
            "c": ConfigsRecord({"t": "x"}),
        }
    )
    node = wait_for(grid, 1)[0]
    for content in (own, old, RecordDict({"p": ArrayRecord({"w": array})})):
        (reply,) = grid.send_and_receive([Message(content, node, "query")])
        kinds = [type(record).__name__ for record in reply.content.values()]
        result(type(reply.content).__name__, kinds, text(reply.content))
