"""A ClientApp whose clients say where they run, and can be made to wait for other nodes.

Every client sends back the arrays plus noise from each global generator, so equal bits prove equal
random states. In a round's folder, a file ``hold`` with a node's id and a number keeps all but so
many clients on that node from ending; ``until`` with nodes' ids keeps all until each has started
one.
"""

from __future__ import annotations

import time
from pathlib import Path

import ray
from flwr.app import (
    Array,
    ArrayRecord,
    ConfigRecord,
    Context,
    Message,
    MetricRecord,
    RecordDict,
)
from flwr.clientapp import ClientApp

from atoll.clients.data.files.dataset import Dataset
from tests.support.apps.faulty_app import updated

app = ClientApp()


@app.train()
def train(message: Message, context: Context) -> Message:
    config = message.content["config"]
    partition = int(context.node_config["partition-id"])
    if "folder" in config:
        meet(Path(str(config["folder"])) / str(config["server-round"]), partition)
    values = updated(message.content["arrays"], partition + 1)
    arrays = ArrayRecord({key: Array(value) for key, value in values.items()})
    metrics = MetricRecord({"num-examples": 10 + partition})
    return Message(RecordDict({"arrays": arrays, "metrics": metrics}), reply_to=message)


def meet(folder: Path, partition: int) -> None:
    """Leave a trace, and wait where that is asked for."""
    here = ray.get_runtime_context().get_node_id()
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{here}-{partition}").touch()
    started = nodes_in(folder).count(here)
    if (folder / "hold").exists():
        node, passing = (folder / "hold").read_text().split()
        while node == here and started > int(passing):
            time.sleep(0.05)
    if (folder / "until").exists():
        awaited = set((folder / "until").read_text().split())
        while not awaited <= set(nodes_in(folder)):
            time.sleep(0.05)


def make_reader(folder: Path) -> ClientApp:
    """Return an app that opens a data set as its worker starts, and answers what is in it."""
    dataset, reader = Dataset(folder), ClientApp()

    @reader.query()
    def read(message: Message, context: Context) -> Message:
        answer = ConfigRecord({"pixels": int(dataset.train.images.sum())})
        return Message(RecordDict({"answer": answer}), reply_to=message)

    return reader


def nodes_in(folder: Path) -> list[str]:
    """Return the node of every client of a round that has started."""
    return [path.name.partition("-")[0] for path in folder.glob("*-*")]
