"""Poison of moments: what an attacker's client answers a query of an alignment strategy."""

from __future__ import annotations

from typing import ClassVar, Literal

from flwr.app import Context, Message

from atoll import flower
from atoll.attacks.poisoning.poison import Poison, is_train
from atoll.clients.ranges import Number
from atoll.flower.arrays import array_record, to_array, view


class MomentScaling(Poison):
    """A factor on the moments that an attacker's client answers queries with.

    Strategies that align domains ask for moments before clients train. Training messages are
    answered honestly.

    Attributes
    ----------
    factor : float
        The factor; -1 flips signs.

    Examples
    --------
    >>> from atoll.attacks import MomentScaling
    >>> MomentScaling(nodes=(1,)).factor
    -1.0
    """

    name: ClassVar[str] = "moment-scaling"
    acts_on: ClassVar[Literal["examples", "update", "moments"]] = "moments"

    factor: Number = -1.0

    def act(
        self, message: Message, context: Context, call_next: flower.ClientAppCallable
    ) -> Message:
        """Answer, and multiply the moments; the numbers of examples stay."""
        reply = call_next(message, context)
        if is_train(message) or reply.has_error():
            return reply
        for name, record in list(reply.content.array_records.items()):
            reply.content[name] = array_record(
                {key: to_array(view(array) * self.factor) for key, array in record.items()}
            )
        return reply
