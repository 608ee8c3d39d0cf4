"""SecAgg+ at the client: Flower's mod around our training.

Bell et al., "Secure Single-Server Aggregation with (Poly)Logarithmic Overhead", CCS 2020. Flower's
mod speaks the older messages of its workflow; this one stands between them and a ClientApp's.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from flwr.app import ArrayRecord, ConfigRecord, Context, Message, RecordDict
from flwr.client.mod import secaggplus_mod

from atoll.flower.arrays import array_record, to_array, view
from atoll.flower.secure_aggregation import (
    Code,
    FitRes,
    Status,
    arrayrecord_to_parameters,
    fitres_to_recorddict,
    recorddict_to_fitins,
)

# The keys of the model's arrays, which the workflow's messages do not have.
KEYS = "array-keys"
ANSWER = Callable[[Message, Context], Message]


class SecureAggregationMod:
    """Mod that masks a client's reply; the strategy ``SecAggPlus`` sees the sum alone."""

    def __call__(self, message: Message, context: Context, call_next: ANSWER) -> Message:
        """Take part in a stage of the protocol."""

        def train(message: Message, context: Context) -> Message:
            return _as_fit(message, context, call_next)

        return secaggplus_mod(message, context, train)


def _as_fit(message: Message, context: Context, call_next: ANSWER) -> Message:
    """Train on a message of the workflow, and answer as it expects."""
    instructions = recorddict_to_fitins(message.content, keep_input=True)
    config: dict[str, Any] = dict(instructions.config)
    keys = json.loads(str(config.pop(KEYS)))
    received = message.content.array_records["fitins.parameters"]
    arrays = {key: to_array(view(a)) for key, a in zip(keys, received.values(), strict=True)}
    request = Message(
        RecordDict({"arrays": array_record(arrays), "config": ConfigRecord(config)}),
        dst_node_id=message.metadata.dst_node_id,
        message_type=message.metadata.message_type,
    )
    answer = call_next(request, context)
    if answer.has_error():
        return Message(answer.error, reply_to=message)
    reply: ArrayRecord = answer.content.array_records["arrays"]
    metrics = dict(answer.content.metric_records["metrics"])
    examples = metrics.pop("num-examples")
    result = FitRes(
        Status(Code.OK, ""),
        arrayrecord_to_parameters(reply, keep_input=True),
        int(examples),  # type: ignore[arg-type]
        metrics,  # type: ignore[arg-type]
    )
    return Message(fitres_to_recorddict(result, keep_input=True), reply_to=message)
