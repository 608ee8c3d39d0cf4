"""Poison of updates: an attacker's client trains as it should, and sends something else."""

from __future__ import annotations

from abc import abstractmethod
from typing import Annotated, ClassVar, Literal

import torch
from flwr.app import Context, Message
from pydantic import Field
from torch import Tensor

from atoll import flower
from atoll.attacks.defenses.base.sent_update import SentUpdate
from atoll.attacks.poisoning.poison import Poison, flattened, is_train, refusal, shaped_as
from atoll.clients.apps.training_messages import config_of, partition_of, round_of
from atoll.clients.ranges import Deviation


class UpdatePoison(Poison):
    """Poison of the update that a client sends.

    Examples
    --------
    >>> from typing import ClassVar
    >>> from atoll.attacks import UpdatePoison
    >>> class Zero(UpdatePoison):
    ...     '''Sends the model that it was sent.'''
    ...
    ...     name: ClassVar[str] = "zero"
    ...
    ...     def forge(self, own, generator):
    ...         return 0 * own
    >>> Zero(nodes=(1,)).acts_on
    'update'
    """

    acts_on: ClassVar[Literal["examples", "update", "moments"]] = "update"

    @abstractmethod
    def forge(self, own: Tensor, generator: torch.Generator) -> Tensor:
        """Return what is sent in the place of an update.

        Parameters
        ----------
        own : Tensor
            The client's own update, shape (d,), float64.
        generator : torch.Generator
            On the CPU; of the client and the round.
        """

    def act(
        self, message: Message, context: Context, call_next: flower.ClientAppCallable
    ) -> Message:
        """Train, and replace the update."""
        if not is_train(message):
            return call_next(message, context)
        update = SentUpdate(message)
        reply = self.trained(message, context, call_next)
        if reply.has_error():
            return reply
        if not update.is_in(reply):
            return refusal(
                message,
                f"the attack {self.name!r} expects a reply with one ArrayRecord, whose keys are "
                "those of the message's",
            )
        own = update.read(reply)
        forged = self.forged(flattened(own), message, context, call_next)
        update.write(reply, shaped_as(forged, own))
        return reply

    def trained(
        self, message: Message, context: Context, call_next: flower.ClientAppCallable
    ) -> Message:
        """Return the client's honest reply."""
        return call_next(message, context)

    def forged(
        self,
        own: Tensor,
        message: Message,
        context: Context,
        call_next: flower.ClientAppCallable,
    ) -> Tensor:
        """Return what is sent in the place of the client's own update, shape (d,)."""
        place = round_of(config_of(message)), partition_of(context)
        return self.forge(own, self.generator(*place))


class SignFlip(UpdatePoison):
    """The update times a negative factor.

    Attributes
    ----------
    factor : float
        The factor, without its sign.

    Examples
    --------
    >>> import torch
    >>> from atoll.attacks import SignFlip
    >>> SignFlip(nodes=(1,), factor=2.0).forge(torch.tensor([1.0, -3.0]), torch.Generator())
    tensor([-2.,  6.])
    """

    name: ClassVar[str] = "sign-flip"

    factor: Annotated[float, Field(ge=1e-6, le=1e6)] = 4.0

    def forge(self, own: Tensor, generator: torch.Generator) -> Tensor:
        """Return the update times minus the factor."""
        return -self.factor * own


class GaussianUpdate(UpdatePoison):
    """Noise in the place of the update (Blanchard et al., 2017, section 5).

    Attributes
    ----------
    std : float
        Deviation of each value, in units of an update's.

    Examples
    --------
    >>> import torch
    >>> from atoll.attacks import GaussianUpdate
    >>> attack = GaussianUpdate(nodes=(1,), std=0.1)
    >>> noise = attack.forge(torch.zeros(10_000), attack.generator(1, 0))
    >>> 0.09 < float(noise.std()) < 0.11
    True
    """

    name: ClassVar[str] = "gaussian"

    std: Deviation = 0.1

    def forge(self, own: Tensor, generator: torch.Generator) -> Tensor:
        """Return the noise."""
        return self.std * torch.randn(own.shape, generator=generator, dtype=own.dtype)
