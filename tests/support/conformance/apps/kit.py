"""What the conformance apps share: waiting for nodes, and one way of printing records."""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import Any

import numpy as np
from flwr.app import (
    Array,
    ArrayRecord,
    ConfigRecord,
    Context,
    Message,
    MetricRecord,
    RecordDict,
)
from flwr.serverapp import Grid


def result(*things: object) -> None:
    """Print a line that is compared."""
    # One write: Ray's threads write what clients print.
    print("RESULT " + " ".join(map(str, things)) + "\n", end="", flush=True)


def wait_for(grid: Grid, nodes: int) -> list[int]:
    """Return the node ids as soon as there are ``nodes``: stock registers them late."""
    while len(ids := list(grid.get_node_ids())) < nodes:
        time.sleep(0.05)
    return ids


def partition(context: Context) -> int:
    return int(context.node_config["partition-id"])


def arrays(**named: Any) -> ArrayRecord:
    return ArrayRecord({name: Array(np.asarray(value)) for name, value in named.items()})


def ask(node: int, kind: str = "train", *, ttl: float | None = None, **config: Any) -> Message:
    """Return a message whose only record is a ConfigRecord."""
    return Message(RecordDict({"config": ConfigRecord(config)}), node, kind, ttl=ttl)


def nodes_by_partition(grid: Grid, nodes: int) -> list[int]:
    """Ask every node for its partition (a query that :func:`answer_partition` answers)."""
    replies = list(
        grid.send_and_receive([ask(n, "query.partition") for n in wait_for(grid, nodes)])
    )
    found = {int(r.content["of"]["partition"]): r.metadata.src_node_id for r in replies}
    return [found[p] for p in sorted(found)]


def answer_partition(message: Message, context: Context) -> Message:
    content = RecordDict({"of": MetricRecord({"partition": partition(context)})})
    return Message(content, reply_to=message)


def text(value: Any) -> str:
    """Return records, arrays and plain values in one canonical writing, to the last digit."""
    if isinstance(value, ArrayRecord):
        inside = ", ".join(f"{k}: {text(v)}" for k, v in value.items())
        return f"arrays({inside})"
    if isinstance(value, MetricRecord | ConfigRecord):
        inside = ", ".join(f"{k}={v!r}" for k, v in value.items())
        return f"{type(value).__name__}({inside})"
    if isinstance(value, RecordDict):
        return "{" + ", ".join(f"{k}: {text(v)}" for k, v in value.items()) + "}"
    if isinstance(value, Array):
        if value.stype != "numpy.ndarray":
            return f"{value.stype} {value.dtype} {tuple(value.shape)} {value.data!r}"
        return text(value.numpy())
    if isinstance(value, np.ndarray):
        return f"{value.dtype}{value.shape}{value.tolist()}"
    return repr(value)


def reply_text(reply: Message) -> str:
    if reply.has_error():
        return f"error {reply.error.code}"
    return text(reply.content)


def sorted_texts(replies: Iterable[Message]) -> list[str]:
    """Return replies as sorted texts: the order in which they come is nobody's promise."""
    return sorted(map(reply_text, replies))


def answer(message: Message, **records: Any) -> Message:
    """Return a reply with these records; dicts become MetricRecords."""
    made = {k: MetricRecord(v) if isinstance(v, dict) else v for k, v in records.items()}
    return Message(RecordDict(made), reply_to=message)
