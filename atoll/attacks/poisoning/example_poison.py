"""Poison of examples: an attacker's client trains as it is told to, on changed examples."""

from __future__ import annotations

from abc import abstractmethod
from typing import Annotated, ClassVar, Literal

import numpy as np
import torch
from flwr.app import Context, Message
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor, nn

from atoll import flower
from atoll.attacks.defenses.base.sent_update import SentUpdate
from atoll.attacks.poisoning.poison import Poison, classes_of, is_train, refusal
from atoll.clients.apps.training_messages import partition_of
from atoll.clients.data.files.dataset import Dataset
from atoll.clients.ranges import NonNegativeCount, Positive
from atoll.clients.training.example_mods import on_examples

Class = NonNegativeCount
SomeShare = Annotated[float, Field(ge=1e-9, le=1.0)]


class ExamplePoison(Poison):
    """Poison of the examples that a client trains on, and measures moments of.

    Attributes
    ----------
    boost : float or None
        The factor by which the update is multiplied; None for the number of clients by that of
        the attacker's.

    Examples
    --------
    >>> from atoll.attacks import ExamplePoison, LabelFlip
    >>> issubclass(LabelFlip, ExamplePoison), LabelFlip.acts_on
    (True, 'examples')
    """

    acts_on: ClassVar[Literal["examples", "update", "moments"]] = "examples"

    boost: Annotated[Positive | None, Field(examples=[10.0])] = 1.0

    @abstractmethod
    def change(
        self, inputs: Tensor, labels: Tensor, generator: torch.Generator, node: int
    ) -> tuple[Tensor, Tensor]:
        """Return a client's examples as the attacker wants them.

        Parameters
        ----------
        inputs, labels : Tensor
            Shapes (n, ...) and (n,).
        generator : torch.Generator
            On the CPU; the same in every round.
        node : int
            The client's node.
        """

    def act(
        self, message: Message, context: Context, call_next: flower.ClientAppCallable
    ) -> Message:
        """Call the client with its examples changed; multiply its update."""
        node = partition_of(context) + 1
        update = SentUpdate(message) if is_train(message) else None

        def mod(inputs: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
            return self.change(inputs, labels, self.generator(node), node)

        with on_examples(mod) as active:
            reply = call_next(message, context)
        if reply.has_error():
            return reply
        if not active.was_asked_for:
            return refusal(
                message,
                f"the attack {self.name!r} changes examples, and this client's training does not "
                "ask for such mods",
            )
        factor = self.boost
        if factor is None:
            factor = int(context.node_config["num-partitions"]) / len(self.nodes)
        if update is not None and factor != 1.0:
            if not update.is_in(reply):
                return refusal(message, f"the attack {self.name!r} expects the model in the reply")
            update.write(reply, [values * factor for values in update.read(reply)])
        return reply


class LabelFlip(ExamplePoison):
    """Labels that are wrong: class c becomes C - 1 - c (Fang et al., 2020), or one class another.

    With ``source`` and ``target``, only labels ``source`` become ``target``; the success is the
    share of test examples of ``source`` that are classed as ``target``. Without, it is the share
    that is classed as the class that the attacker wrote.

    Attributes
    ----------
    source, target : int or None
        Both, or neither.

    Examples
    --------
    >>> import torch
    >>> from atoll.attacks import LabelFlip
    >>> flip = LabelFlip(nodes=(1,), source=0, target=2)
    >>> flip.change(torch.zeros(3, 4), torch.tensor([0, 1, 2]), torch.Generator(), node=1)[1]
    tensor([2, 1, 2])
    """

    name: ClassVar[str] = "label-flip"
    has_goal: ClassVar[bool] = True

    source: Annotated[Class | None, Field(examples=[7])] = None
    target: Annotated[Class | None, Field(examples=[1])] = None

    def flipped(self, labels: Tensor) -> Tensor:
        """Return labels as the attacker writes them."""
        if self.source is None or self.target is None:
            return classes_of(self.data()) - 1 - labels
        return torch.where(labels == self.source, self.target, labels)

    def change(
        self, inputs: Tensor, labels: Tensor, generator: torch.Generator, node: int
    ) -> tuple[Tensor, Tensor]:
        """Change the labels."""
        return inputs, self.flipped(labels)

    def aims(self, data: Dataset, indices: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the examples whose labels the attacker would change."""
        labels = torch.from_numpy(data.test.labels[indices])
        chosen: NDArray[np.int64] = indices[(self.flipped(labels) != labels).numpy()]
        return chosen

    def goal(self, data: Dataset, chosen: NDArray[np.int64]) -> tuple[Tensor, Tensor]:
        """Return examples as they are, and the labels that the attacker would write."""
        labels = torch.from_numpy(data.test.labels[chosen])
        return data.inputs.to_tensor(data.test.inputs[chosen]), self.flipped(labels)

    def check_data(self, data: Dataset, model: nn.Module) -> None:
        """Refuse classes that there are not."""
        classes = classes_of(data)
        if (self.source is None) != (self.target is None):
            raise ValueError("source and target: expected both or neither")
        for name, value in (("source", self.source), ("target", self.target)):
            check_class(name, value, classes)
        if self.source is not None and self.source == self.target:
            raise ValueError(f"target = {self.target}: is the source; expected another class")


def check_class(name: str, value: int | None, classes: int) -> None:
    """Raise a ``ValueError`` if there is no such class."""
    if value is not None and value >= classes:
        raise ValueError(f"{name} = {value}: expected a class from 0 to {classes - 1}")
