"""One bit a masked weight: a mod by which clients send their masks in the place of scores."""

from __future__ import annotations

import numpy as np
from flwr.app import Context, Message
from torch import nn

from atoll import flower
from atoll.clients.arrays.coded_uploads import CODED_BYTES
from atoll.clients.models.weights.masks import masks_of
from atoll.clients.ranges import Positive
from atoll.clients.settings import MaskSettings, Section
from atoll.clients.weight_settings import TRAINED_WEIGHT
from atoll.flower.arrays import array_record, to_array, view


class MaskBits(Section):
    """Scores of ``[model.masks]`` are sent as bits: twice the threshold where a weight counts.

    The server's mean of these is over the threshold where most clients, weighted, keep a weight.
    The reply's metric ``coded-bytes`` counts a bit for each, and the other arrays as they are.

    Attributes
    ----------
    threshold : float
        That of the model's masks.
    """

    threshold: Positive = MaskSettings().threshold

    def check_model(self, model: nn.Module) -> None:
        """Raise a ``ValueError`` if the model has no masks, or masks of another threshold."""
        masks = masks_of(model)
        if not masks:
            raise ValueError("the model has no masks to send; expected a table [model.masks]")
        for _, masked in masks:
            if masked.threshold != self.threshold:
                raise ValueError(
                    f"threshold = {self.threshold:g}, and the model's masks have "
                    f"{masked.threshold:g}; expected the same"
                )

    def __call__(
        self, message: Message, context: Context, call_next: flower.ClientAppCallable
    ) -> Message:
        """Answer a training message with masks for scores."""
        reply = call_next(message, context)
        if message.metadata.message_type.partition(".")[0] != "train" or reply.has_error():
            return reply
        [(place, arrays)] = reply.content.array_records.items()
        sent, size, bits = {}, 0, 0
        for key, array in arrays.items():
            values = view(array)
            if key.endswith(TRAINED_WEIGHT):
                bits += values.size
                kept = np.where(values > self.threshold, 2 * self.threshold, 0.0)
                sent[key] = to_array(kept.astype(values.dtype))
            else:
                size += values.nbytes
                sent[key] = array
        reply.content[place] = array_record(sent)
        for record in reply.content.metric_records.values():
            record[CODED_BYTES] = size + -(-bits // 8)
        return reply
