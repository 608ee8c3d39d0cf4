"""A client's check of the model that it got: weights that repeat, as malicious servers need them.

An imprint block's rows are all alike, and a fishing head's are zero but for one. Weights that were
drawn or trained are not.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import torch
from flwr.app import Context, Error, Message
from torch import Tensor

from atoll import flower
from atoll.attacks.defenses.sent_update import SentUpdate
from atoll.clients.ranges import Fraction
from atoll.clients.settings import Section

# Rows of a matrix that are compared: the first ones.
ROWS = 512
# Fewer rows may be alike by chance, or by design.
FEWEST = 4
NEARLY = 1e-4


class ModelCheck(Section):
    """Check of the received model: a client refuses weights whose rows repeat each other.

    It does not train, and its reply is an error with the reason. A server evades it by rows that
    differ by more than 1e-4 in direction.

    Attributes
    ----------
    repeated : float
        Share of a weight's rows, or columns, that may be parallel to another one or zero. A weight
        that is zero as a whole, as an adapter begins, passes.
    """

    name: ClassVar[str] = "model-check"

    repeated: Fraction = 0.5

    def __call__(
        self, message: Message, context: Context, call_next: flower.ClientAppCallable
    ) -> Message:
        """Answer a training message, as a Flower mod."""
        if message.metadata.message_type.partition(".")[0] != "train":
            return call_next(message, context)
        found = suspicious_weights(_weights(message), self.repeated)
        if found:
            share = max(found.values())
            reason = (
                f"the client refuses the model: {share:.0%} of the rows of a weight repeat each "
                f"other ({', '.join(found)}), expected at most {self.repeated:.0%}"
            )
            return Message(Error(flower.PRECONDITION_FAILED, reason), reply_to=message)
        return call_next(message, context)


def suspicious_weights(weights: Mapping[str, Tensor], repeated: float) -> dict[str, float]:
    """Return the share of repeated rows or columns of each weight where it is above ``repeated``.

    Parameters
    ----------
    weights : Mapping[str, Tensor]
        By name; those of two dimensions or more are looked at, each row flattened.
    repeated : float
        In [0, 1].
    """
    found = {}
    for name, weight in weights.items():
        if weight.dim() < 2 or not weight.any():
            continue
        sides = [weight.flatten(1)]
        if weight.dim() == 2:
            sides.append(weight.T)
        share = max(_repeated_share(side[:ROWS].double()) for side in sides)
        if share > repeated:
            found[name] = share
    return found


def _repeated_share(rows: Tensor) -> float:
    """Return the share of rows that are zero, or parallel to another row."""
    if min(rows.shape) < FEWEST:
        return 0.0
    sizes = rows.norm(dim=1, keepdim=True)
    is_zero = sizes[:, 0] == 0
    directions = rows / torch.where(sizes == 0, 1.0, sizes)
    cosines = (directions @ directions.T).abs().fill_diagonal_(0.0)
    return float(((cosines > 1 - NEARLY).any(1) | is_zero).double().mean())


def _weights(message: Message) -> dict[str, Tensor]:
    update = SentUpdate(message)
    return dict(zip(update.keys, update.parameters, strict=True))
