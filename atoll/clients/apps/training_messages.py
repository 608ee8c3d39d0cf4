"""Training messages: the fields that clients read, and the replies that they make."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from torch import Tensor

from atoll.clients.arrays.tensors import tensors_of
from atoll.clients.training.local_training import TrainingResult
from atoll.clients.training.objective.client_objective import SEPARATOR
from atoll.clients.training.objective.named_terms import records_of_terms
from atoll.clients.training.objective.node_memory import record_of
from atoll.flower.arrays import array_record


def answer(message: Message, arrays: ArrayRecord, result: TrainingResult) -> Message:
    """Return a training message's answer: the client's arrays and metrics."""
    if result.extra.arrays:
        arrays = array_record({**arrays, **record_of(result.extra.arrays)})
    content = RecordDict({"arrays": arrays, "metrics": metrics_of(result)})
    return Message(content, reply_to=message)


def metrics_of(result: TrainingResult) -> MetricRecord:
    """Return the metrics of a client's training."""
    own = MetricRecord({"num-examples": result.examples, "loss": result.loss})
    own.update(result.extra.metrics)
    return own


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


def model_arrays_of(message: Message) -> ArrayRecord:
    """Return the model that a message holds, without what a strategy sends beside it.

    The arrays of a term of the objective are named ``TERM:NAME``.
    """
    arrays = arrays_of(message)
    if not records_of_terms(message.content):
        return arrays
    return array_record({key: array for key, array in arrays.items() if SEPARATOR not in key})


def term_arrays_in(message: Message, term: str) -> dict[str, Array]:
    """Return the arrays that a message holds for a term of the objective, by name."""
    prefix = f"{term}{SEPARATOR}"
    return {
        key.removeprefix(prefix): array
        for key, array in arrays_of(message).items()
        if key.startswith(prefix)
    }


def term_arrays_of(message: Message, term: str) -> dict[str, Tensor]:
    """Return what a message holds for a term of the objective, by name."""
    return tensors_of(term_arrays_in(message, term))


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
