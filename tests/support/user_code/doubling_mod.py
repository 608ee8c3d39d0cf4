"""A mod that doubles what a client sends."""

from __future__ import annotations

from flwr.app import ArrayRecord, Context, Message
from flwr.clientapp.typing import ClientAppCallable


def doubled(message: Message, context: Context, call_next: ClientAppCallable) -> Message:
    reply = call_next(message, context)
    arrays = reply.content.array_records["arrays"].to_numpy_ndarrays(keep_input=True)
    reply.content["arrays"] = ArrayRecord(
        {
            key: type(array)(2 * values)
            for (key, array), values in zip(
                reply.content.array_records["arrays"].items(), arrays, strict=True
            )
        }
    )
    return reply
