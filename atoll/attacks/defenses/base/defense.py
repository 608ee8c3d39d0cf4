"""Base class of defenses: a Flower mod around one function of gradients.

``apply`` takes a task and the function that computes its gradients, as a Flower mod takes a message
and ``call_next``. Where it acts is a setting: on the gradient of each step of local training
(``acts_on = "step"``), or on the update that is sent (``acts_on = "update"``: the reply's arrays
minus the broadcast ones). On stock Flower the same object goes into
``ClientApp.train(mods=[...])``.

An attacker who knows which defense acts, but not its arguments, has ``estimate`` (of the arguments,
from the observed update) and ``mimic`` (the defense's effect on a gradient of the attacker's own,
differentiable), both without the defense's own settings.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import ClassVar, Literal

import torch
from flwr.app import Context, Error, Message
from torch import Tensor, nn

from atoll import flower
from atoll.attacks.defenses.base.sent_update import SentUpdate
from atoll.clients.apps.training_messages import config_of, round_of
from atoll.clients.settings import Section
from atoll.clients.training.step_mods import LocalStep, StepGradient, on_steps
from atoll.randomness import derive_seed


@dataclass(frozen=True)
class Task:
    """Context of a gradient or update that a client is about to compute.

    Attributes
    ----------
    parameters : Sequence[Tensor]
        The parameters that it starts from.
    server_round : int
        From 1.
    step : LocalStep or None
        The step of local training, where the defense acts on steps.

    Examples
    --------
    >>> import torch
    >>> from atoll.attacks import Task
    >>> task = Task([torch.zeros(3)], server_round=2)
    >>> task.step is None, torch.rand(1, generator=task.generator).device.type
    (True, 'cpu')
    """

    parameters: Sequence[Tensor]
    server_round: int = 1
    step: LocalStep | None = None

    @cached_property
    def generator(self) -> torch.Generator:
        """A generator for this task, on the CPU: the same numbers on every device.

        It is seeded from the global generator, which the engine (and our clients, on stock
        Flower) seed for each client and round.
        """
        drawn = int(torch.randint(2**62, ()))
        return torch.Generator().manual_seed(derive_seed(drawn, "defense"))


Compute = Callable[[Task], list[Tensor]]


@dataclass(frozen=True)
class Estimate:
    """Estimate of a defense's parameters from one update.

    Attributes
    ----------
    figures : Mapping[str, float]
        For people.
    tensors : Sequence[Tensor]
        One a parameter, where the defense's ``mimic`` needs them (masks, scales).

    Examples
    --------
    >>> import torch
    >>> from torch import nn
    >>> from atoll.attacks import TopK
    >>> estimate = TopK.estimate([torch.tensor([0.0, 2.0, 0.0, -1.0])], nn.Identity())
    >>> estimate.figures, estimate.tensors
    ({'pruned': 0.5}, [tensor([0., 1., 0., 1.])])
    """

    figures: Mapping[str, float] = field(default_factory=dict)
    tensors: Sequence[Tensor] = ()


class Defense(Section, ABC):
    """A defense; its fields are the arguments of its entry in ``client.mods``.

    Attributes
    ----------
    name : str
        As in an experiment file.
    is_mimicked : bool
        Whether ``mimic`` changes what it is given, so that an adaptive attacker differs from a
        naive one.
    acts_on : "step" or "update"
        Place where it acts.

    Examples
    --------
    >>> from typing import ClassVar
    >>> import torch
    >>> from atoll.attacks import Defense, Task
    >>> class Halved(Defense):
    ...     '''Sends half of the update.'''
    ...
    ...     name: ClassVar[str] = "halved"
    ...
    ...     def apply(self, task, compute):
    ...         return [gradient / 2 for gradient in compute(task)]
    >>> update = [torch.tensor([4.0, -2.0])]
    >>> Halved().apply(Task(update), lambda task: update), Halved().acts_on
    ([tensor([ 2., -1.])], 'update')
    """

    name: ClassVar[str]
    is_mimicked: ClassVar[bool] = False

    acts_on: Literal["step", "update"] = "update"

    @abstractmethod
    def apply(self, task: Task, compute: Compute) -> list[Tensor]:
        """Return the defended gradient (or update).

        Parameters
        ----------
        task : Task
            Task to compute.
        compute : Callable
            Computes it without this defense, from the task or a changed one.

        Returns
        -------
        list[Tensor]
            Shaped as ``task.parameters``, without a graph.
        """

    @classmethod
    def estimate(cls, observed: Sequence[Tensor], model: nn.Module) -> Estimate:
        """Return an attacker's estimate of the defense's parameters.

        Parameters
        ----------
        observed : Sequence[Tensor]
            The defended gradient or update, by parameter.
        model : nn.Module
            The model that it is of; ``observed`` is in the order of its parameters.
        """
        return Estimate()

    @classmethod
    def mimic(cls, gradient: Sequence[Tensor], estimate: Estimate) -> list[Tensor]:
        """Return the expected output of the defense for a gradient; differentiable."""
        return list(gradient)

    def metrics(self, context: Context, steps: Sequence[LocalStep]) -> dict[str, float]:
        """Return metrics that are added to the reply's: none, or the privacy spent.

        Parameters
        ----------
        context : Context
            The client's; its state remembers earlier rounds.
        steps : Sequence[LocalStep]
            The steps on which the defense acted.
        """
        return {}

    def check_model(self, model: nn.Module) -> None:
        """Raise a ``ValueError`` if the model lacks something that the defense needs."""

    def __call__(
        self, message: Message, context: Context, call_next: flower.ClientAppCallable
    ) -> Message:
        """Answer a training message, as a Flower mod."""
        if message.metadata.message_type.partition(".")[0] != "train":
            return call_next(message, context)
        steps: list[LocalStep] = []
        if self.acts_on == "step":
            reply = self._call_with_steps(message, context, call_next, steps)
        else:
            reply = self._call_on_update(message, context, call_next)
        if not reply.has_error():
            measured = self.metrics(context, steps)
            for record in reply.content.metric_records.values():
                record.update(measured)
        return reply

    def _call_with_steps(
        self,
        message: Message,
        context: Context,
        call_next: flower.ClientAppCallable,
        steps: list[LocalStep],
    ) -> Message:
        server_round = round_of(config_of(message))

        def mod(step: LocalStep, compute: StepGradient) -> list[Tensor]:
            steps.append(step)
            return self.apply(
                Task(step.parameters, server_round, step), lambda task: compute(_step_of(task))
            )

        with on_steps(mod) as active:
            reply = call_next(message, context)
        if not active.was_asked_for and not reply.has_error():
            return _refusal(
                message,
                f"the defense {self.name!r} acts on steps of local training, and this client's "
                "training does not ask for such mods",
            )
        return reply

    def _call_on_update(
        self, message: Message, context: Context, call_next: flower.ClientAppCallable
    ) -> Message:
        update = SentUpdate(message)
        reply = call_next(message, context)
        if reply.has_error():
            return reply
        if not update.is_in(reply):
            return _refusal(
                message,
                f"the defense {self.name!r} expects a reply with one ArrayRecord, whose keys are "
                "those of the message's",
            )
        task = Task(update.parameters, round_of(config_of(message)))
        update.write(reply, self.apply(task, lambda task: update.read(reply)))
        return reply


def _step_of(task: Task) -> LocalStep:
    assert task.step is not None
    return task.step


def _refusal(message: Message, reason: str) -> Message:
    return Message(Error(flower.PRECONDITION_FAILED, reason), reply_to=message)
