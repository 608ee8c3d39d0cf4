"""Configs of every type there and back: strings, bytes, lists, large integers, empty values."""

import math

from flwr.app import ConfigRecord
from flwr.clientapp import ClientApp
from flwr.serverapp import ServerApp
from flwr.serverapp.strategy import FedAvg
from kit import answer, arrays, partition, result, text

server = ServerApp()
client = ClientApp()

VALUES = {
    "text": "zwölf Boxkämpfer\n\t\"'",
    "nothing": "",
    "raw": bytes(range(256)),
    "no-bytes": b"",
    "flag": True,
    "off": False,
    "large": 2**62,
    "small": -(2**62),
    "ratio": 0.1,
    "tiny": 5e-324,
    "nan": math.nan,
    "inf": -math.inf,
    "ints": [1, -2, 3],
    "floats": [0.1, 2.5],
    "texts": ["a", "", "ß"],
    "flags": [True, False],
    "blobs": [b"\x00", b""],
    "none": [],
}


@client.train()
def train(message, context):
    found = message.content["config"]
    kinds = ",".join(type(v).__name__ for v in found.values())
    return answer(
        message,
        arrays=message.content["arrays"],
        back=found,
        said=ConfigRecord({"kinds": kinds, "run": sorted(map(repr, context.run_config.items()))}),
        metrics={"num-examples": 1, "p": partition(context)},
    )


@client.evaluate()
def evaluate(message, context):
    return answer(message, metrics={"num-examples": 1, "keys": len(message.content["config"])})


class Told(FedAvg):
    def aggregate_train(self, server_round, replies):
        replies = sorted(replies, key=lambda r: r.content["metrics"]["p"])
        for reply in replies:
            result(text(reply.content["back"]))
            result(text(reply.content["said"]), text(reply.content["metrics"]))
        return super().aggregate_train(server_round, replies)


@server.main()
def main(grid, context):
    result(sorted(context.run_config.items()))
    configs = {"train_config": ConfigRecord(VALUES), "evaluate_config": ConfigRecord({"e": b"x"})}
    Told().start(grid, arrays(w=[1.0]), num_rounds=2, **configs)
    result(text(configs["evaluate_config"]))
