"""The update in a client's reply: the reply's arrays minus the broadcast ones."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from flwr.app import Message
from numpy.typing import NDArray
from torch import Tensor

from atoll.clients.arrays.tensors import tensor_of
from atoll.clients.moments.moment_messages import TrainingTerms
from atoll.flower.arrays import array_record, to_array, view

# BatchNorm's running statistics are no part of an update: noise would make variances negative.
RUNNING = ("running_mean", "running_var")


class SentUpdate:
    """The update of one client, read before and after its training.

    Parameters
    ----------
    message : Message
        The training message, before the client answers it.

    Attributes
    ----------
    parameters : list[Tensor]
        The broadcast arrays that an update changes: of floating point, without BatchNorm's running
        statistics.
    keys : list[str]
        Their keys.
    """

    def __init__(self, message: Message) -> None:
        sent = list(message.content.array_records.values())[:1]
        start = {key: view(array) for record in sent for key, array in record.items()}
        self._start_keys = start.keys()
        self.keys = [key for key, values in start.items() if _is_update(key, values)]
        self._is_gradient = _replies_gradient(message)
        self.parameters = [torch.from_numpy(np.array(start[key])) for key in self.keys]

    def is_in(self, reply: Message) -> bool:
        """Tell whether a reply has one ArrayRecord, whose keys are those of the message's."""
        records = list(reply.content.array_records.values())
        return len(records) == 1 and records[0].keys() == self._start_keys

    def read(self, reply: Message) -> list[Tensor]:
        """Return the update in a reply, shaped as :attr:`parameters`."""
        [arrays] = reply.content.array_records.values()
        after = [tensor_of(arrays[key]) for key in self.keys]
        return list(torch._foreach_sub(after, self._origin()))

    def write(self, reply: Message, update: Sequence[Tensor]) -> None:
        """Put another update into a reply."""
        [(place, arrays)] = reply.content.array_records.items()
        sent = torch._foreach_add(self._origin(), list(update))
        changed = dict(zip(self.keys, sent, strict=True))
        reply.content[place] = array_record(
            {
                key: to_array(changed[key].numpy()) if key in changed else array
                for key, array in arrays.items()
            }
        )

    def _origin(self) -> list[Tensor]:
        """Return what an update is counted from: nothing, where the reply is a gradient."""
        if not self._is_gradient:
            return self.parameters
        return [torch.zeros_like(values) for values in self.parameters]


def _is_update(key: str, values: NDArray[np.generic]) -> bool:
    return values.dtype.kind == "f" and not key.endswith(RUNNING)


def _replies_gradient(message: Message) -> bool:
    """Tell whether the reply's arrays are a gradient, not a model."""
    terms = TrainingTerms.from_records(message.content)
    return terms is not None and terms.replies_gradient
