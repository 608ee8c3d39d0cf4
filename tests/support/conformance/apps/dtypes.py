"""Arrays of every dtype, layout and size there and back; Arrays that are no NumPy arrays."""

import numpy as np
from flwr.app import Array, ArrayRecord
from flwr.clientapp import ClientApp
from flwr.serverapp import ServerApp
from flwr.serverapp.strategy import FedAvg
from kit import answer, arrays, partition, result, text

server = ServerApp()
client = ClientApp()


NUMBERS = ("float16", "float32", "float64", "int8", "uint8", "int16", "uint16", "int32", "uint32")


def everything():
    named = {name: np.arange(3).astype(name) for name in (*NUMBERS, "int64", "uint64")}
    named["bool"] = np.array([True, False])
    named["complex64"] = np.array([1 + 2j, -1j], dtype=np.complex64)
    named["complex128"] = np.array([[1 + 2j]])
    named["text"] = np.array(["a", "longer"])
    named["bytes"] = np.array([b"a", b"xyz"])
    named["scalar"] = np.float64(2.5)
    named["zero"] = np.int64(0)
    named["empty"] = np.zeros((0,), dtype=np.float32)
    named["hollow"] = np.zeros((2, 0, 3))
    named["fortran"] = np.asfortranarray(np.arange(6.0).reshape(2, 3))
    named["strided"] = np.arange(10.0)[::3]
    named["big-endian"] = np.arange(3, dtype=">f4")
    named["dates"] = np.array(["2024-02-29"], dtype="datetime64[D]")
    named["deep"] = np.zeros((1,) * 12)
    named[""] = np.ones(1)
    named["a/b.c é"] = np.ones(1)
    return named


def foreign():
    return ArrayRecord(
        {
            "bfloat16": Array("bfloat16", (2,), "my.bfloat16", b"\x80\x3f\x00\x40"),
            "json": Array("utf8", (), "json", b'{"trees": [1, 2]}'),
            "packed": Array("int4", (3, 2), "packed", b"\x01\x02\x03"),
        }
    )


@client.train()
def train(message, context):
    sent = message.content["arrays"]
    if message.content["config"]["own"]:
        own = foreign()
        own["who"] = Array("utf8", (), "json", str(partition(context)).encode())
        return answer(message, arrays=own, metrics={"num-examples": 1})
    changed = arrays(**{name: array.numpy() for name, array in sent.items()})
    return answer(message, arrays=changed, metrics={"num-examples": 1})


class Each(FedAvg):
    def aggregate_train(self, server_round, replies):
        found = sorted(text(r.content["arrays"]) for r in replies)
        result(len(found), len(set(found)))
        for line in found[0].split(", "):
            result(line)
        return next(iter(replies)).content["arrays"], None


@server.main()
def main(grid, context):
    from flwr.app import ConfigRecord

    for own, sent in ((False, arrays(**everything())), (True, foreign())):
        config = ConfigRecord({"own": own})
        ended = Each(fraction_evaluate=0.0).start(grid, sent, num_rounds=1, train_config=config)
        result(list(ended.arrays), sum(len(a.data) for a in ended.arrays.values()))
