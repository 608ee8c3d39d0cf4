"""Training messages: the fields that clients read, and the replies that they make."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from flwr.app import ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict

from atoll.clients.training.local_training import TrainingResult

# Before the names of metrics of clients' own models.
PERSONAL = "personal-"


def answer(message: Message, arrays: ArrayRecord, result: TrainingResult) -> Message:
    """Return a training message's answer: the client's arrays and metrics."""
    content = RecordDict({"arrays": arrays, "metrics": metrics_of(result)})
    return Message(content, reply_to=message)


def metrics_of(result: TrainingResult) -> MetricRecord:
    """Return the metrics of a client's training."""
    return MetricRecord({"num-examples": result.examples, "loss": result.loss})


def evaluated(message: Message, metrics: Mapping[str, Any]) -> Message:
    """Return an evaluation message's answer."""
    return Message(RecordDict({"metrics": MetricRecord(dict(metrics))}), reply_to=message)


def arrays_of(message: Message) -> ArrayRecord:
    """Return the model that a message holds.

    Raises
    ------
    ValueError
        If it has no ``ArrayRecord`` named "arrays".
    """
    arrays = message.content.get("arrays")
    if not isinstance(arrays, ArrayRecord):
        raise ValueError("the message has no ArrayRecord 'arrays'")
    return arrays


def config_of(message: Message) -> ConfigRecord:
    """Return a message's config, or an empty one."""
    config = message.content.get("config")
    return config if isinstance(config, ConfigRecord) else ConfigRecord()


def round_of(config: ConfigRecord) -> int:
    """Return the server round that a config names, or 1."""
    return int(config.get("server-round", 1))  # type: ignore[arg-type]


def proximal_mu_of(config: ConfigRecord) -> float | None:
    """Return the weight of FedProx's term that the server asks for, if it does."""
    given = config.get("proximal-mu")
    return None if given is None else float(given)  # type: ignore[arg-type]


def partition_of(context: Context) -> int:
    """Return the partition of the client, from 0."""
    return int(context.node_config["partition-id"])
