"""Terms of an objective: their settings, and what one does in a client's training of a round.

A term's settings are a frozen class. :meth:`ObjectiveTerm.begin` looks at a client and returns a
:class:`TermRun`: the functions by which the term takes part in the steps. What it leaves unset
costs nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import ClassVar

import torch
from flwr.app import RecordDict
from torch import Tensor, nn

from atoll.clients.data.client_inputs import ClientInputs
from atoll.clients.ranges import Weight
from atoll.clients.settings import ClientSettings, Section
from atoll.clients.tasks.task import Task
from atoll.clients.training.gradients import full_gradient, losses_in_batches
from atoll.clients.training.objective.node_memory import NodeMemory


@dataclass(frozen=True)
class TermContext:
    """What a term may look at when a client begins to train.

    Attributes
    ----------
    model : nn.Module
        At the global parameters. With vectorised clients, of all of them.
    names : Sequence[str]
        Of the parameters that are trained, in the order of ``model.named_parameters()``.
    start : Sequence[Tensor]
        The global parameters: copies that do not change.
    task : Task
        What is predicted.
    settings : ClientSettings
        ``[client]``.
    learning_rate : float
        The round's.
    proximal_mu : float
        The weight of FedProx's term in this round.
    server_round, num_rounds : int
        The round, from 1, and how many the run has.
    seed : int
        Of the client in this round.
    inputs, labels : ClientInputs, Tensor
        The client's examples, shape (n, ...).
    indices : Tensor
        int64, shape (n,): which examples of the training split they are.
    head : nn.Module or None
        The model's last module, whose inputs are the features.
    memory : NodeMemory
        What the term keeps with the node.
    received : Mapping[str, Tensor]
        What the server sent for the term beside the model, by name. Clients of a round share it:
        it is not to be changed.

    Examples
    --------
    >>> import torch
    >>> from atoll.clients import Classification, ClientSettings, TermContext
    >>> model, task = torch.nn.Linear(2, 2), Classification(classes=("a", "b"))
    >>> names, start = zip(*((name, p.detach().clone()) for name, p in model.named_parameters()))
    >>> context = TermContext(model, names, start, task, ClientSettings(), learning_rate=0.1)
    >>> [tuple(zeros.shape) for zeros in context.named({})]
    [(2, 2), (2,)]
    """

    model: nn.Module
    names: Sequence[str]
    start: Sequence[Tensor]
    task: Task
    settings: ClientSettings
    learning_rate: float
    proximal_mu: float = 0.0
    server_round: int = 1
    num_rounds: int = 1
    seed: int = 0
    inputs: ClientInputs = field(default_factory=lambda: torch.zeros(0))
    labels: Tensor = field(default_factory=lambda: torch.zeros(0))
    indices: Tensor = field(default_factory=lambda: torch.zeros(0, dtype=torch.int64))
    head: nn.Module | None = None
    memory: NodeMemory = field(default_factory=lambda: NodeMemory(RecordDict(), "none"))
    received: Mapping[str, Tensor] = field(default_factory=dict)

    def named(self, tensors: Mapping[str, Tensor]) -> list[Tensor]:
        """Return tensors in the parameters' order; zeros for a parameter that has none."""
        return [
            tensors[name].to(start) if name in tensors else torch.zeros_like(start)
            for name, start in zip(self.names, self.start, strict=True)
        ]

    def full_gradient(self) -> list[Tensor]:
        """Return the mean loss's gradient over all the client's examples, at the parameters.

        BatchNorm's running statistics stay as they are.
        """
        by_name = dict(self.model.named_parameters())
        parameters = [by_name[name] for name in self.names]
        buffers = [(buffer, buffer.clone()) for buffer in self.model.buffers()]

        def objective(chosen: Tensor) -> tuple[Tensor, Tensor]:
            loss = self.task.losses(self.model(self.inputs[chosen]), self.labels[chosen]).mean()
            return loss, loss

        examples = len(self.labels)
        losses = losses_in_batches(objective, examples, self.settings.batch_size)
        total, _ = full_gradient(losses, parameters, examples)
        for buffer, before in buffers:
            buffer.copy_(before)
        return total

    def by_name(self, tensors: Sequence[Tensor]) -> dict[str, Tensor]:
        """Return tensors of the parameters by their names."""
        return dict(zip(self.names, tensors, strict=True))


class TermBatch:
    """A step's batch as a term's loss sees it.

    Parameters
    ----------
    chosen : Tensor
        int64, shape (n,): places among the client's examples.
    inputs, labels : Tensor
        Shape (n, ...).
    outputs : Tensor
        The model's, shape (n, ...).
    task : Task
        What is predicted.
    features : Tensor or None
        The head's inputs, shape (n, d), where a term asked for them.

    Attributes
    ----------
    chosen, inputs, labels, outputs, task, features
        As given.

    Examples
    --------
    >>> import torch
    >>> from atoll.clients import Classification, TermBatch
    >>> task, labels = Classification(classes=("a", "b")), torch.tensor([0, 1])
    >>> batch = TermBatch(torch.arange(2), torch.eye(2), labels, torch.zeros(2, 2), task)
    >>> batch.losses
    tensor([0.6931, 0.6931])
    """

    def __init__(
        self,
        chosen: Tensor,
        inputs: Tensor,
        labels: Tensor,
        outputs: Tensor,
        task: Task,
        features: Tensor | None = None,
    ) -> None:
        self.chosen, self.inputs, self.labels = chosen, inputs, labels
        self.outputs, self.task, self.features = outputs, task, features

    @cached_property
    def losses(self) -> Tensor:
        """Each example's loss by the task, shape (n,)."""
        return self.task.losses(self.outputs, self.labels)


@dataclass(frozen=True)
class LocalEnd:
    """The end of a client's training in a round.

    Attributes
    ----------
    start, parameters : Sequence[Tensor]
        The global parameters and the client's, in the same order.
    steps, examples : int
        Optimiser steps taken, and the client's examples.
    learning_rate : float
        The round's.
    """

    start: Sequence[Tensor]
    parameters: Sequence[Tensor]
    steps: int
    examples: int
    learning_rate: float

    @cached_property
    def moved(self) -> list[Tensor]:
        """The client's parameters minus the global ones."""
        return list(torch._foreach_sub(list(self.parameters), list(self.start)))


@dataclass(frozen=True)
class TermReply:
    """What a term adds to a client's reply.

    Attributes
    ----------
    arrays : Mapping[str, Tensor]
        Of the names and shapes that the server sent for the term; what is missing is sent as 0.
    metrics : Mapping[str, float]
        Beside the loss and the number of examples.

    Examples
    --------
    >>> from atoll.clients import TermReply
    >>> TermReply(metrics={"squared-norm": 2.0}).arrays
    {}
    """

    arrays: Mapping[str, Tensor] = field(default_factory=dict)
    metrics: Mapping[str, float] = field(default_factory=dict)


NO_REPLY = TermReply()
# Takes the gradients by the parameters of a step, and returns the gradients at other parameters:
# those of the step plus what it is given.
GradientAt = Callable[[Sequence[Tensor]], list[Tensor]]


@dataclass(frozen=True)
class TermRun:
    """What a term does in one client's training of one round; what is None it leaves as it is.

    Attributes
    ----------
    offset : Sequence[Tensor] or None
        Added to every step's gradient: the gradient of <offset, w>.
    pull : float
        mu of a term mu/2 ||w - w_start||^2.
    loss : callable or None
        Takes a :class:`TermBatch` and returns a scalar, which is differentiated with the loss.
    change_features : callable or None
        Takes the head's inputs and returns what the head is given in their place.
    needs_features : bool
        Whether ``loss`` reads the batch's features.
    gradient : callable or None
        Takes a step's gradient and a :data:`GradientAt`; returns the gradient of the step.
    end : callable or None
        Takes a :class:`LocalEnd`; keeps what the next round needs and returns a
        :class:`TermReply`.

    Examples
    --------
    >>> from atoll.clients import TermRun
    >>> TermRun(pull=0.1).is_linear, TermRun(loss=lambda batch: batch.losses.max()).is_linear
    (True, False)
    """

    offset: Sequence[Tensor] | None = None
    pull: float = 0.0
    loss: Callable[[TermBatch], Tensor] | None = None
    change_features: Callable[[Tensor], Tensor] | None = None
    needs_features: bool = False
    gradient: Callable[[list[Tensor], GradientAt], list[Tensor]] | None = None
    end: Callable[[LocalEnd], TermReply] | None = None

    @property
    def is_linear(self) -> bool:
        """Whether it acts on gradients by ``offset`` and ``pull`` alone."""
        return self.loss is None and self.change_features is None and self.gradient is None


class ObjectiveTerm(Section):
    """Base of the terms of an objective; a subclass has its settings as fields.

    Attributes
    ----------
    weight : float
        What its ``offset``, ``pull`` and ``loss`` are multiplied by.

    Examples
    --------
    >>> from atoll.clients import ObjectiveTerm, TermRun
    >>> class Decay(ObjectiveTerm):
    ...     '''Weight decay towards zero, as a term.'''
    ...
    ...     def begin(self, context):
    ...         return TermRun(loss=lambda batch: sum(
    ...             p.square().sum() / 2 for p in context.model.parameters()))
    >>> Decay(weight=0.1).obstacle_to_vectorizing()
    'it has no form for several clients at once'
    """

    # Whether the term is part of a strategy, which sends what it needs.
    of_strategy: ClassVar[str | None] = None
    # Whether :meth:`TermRun.end` writes to the node's memory, so that replies cannot be summed
    # before the node's state is kept.
    has_state: ClassVar[bool] = False
    # Whether the loss remembers what it is computed on, so that it must be computed once a step.
    once_a_step: ClassVar[bool] = False
    # Whether a run has a :attr:`TermRun.gradient`.
    asks_for_second_gradient: ClassVar[bool] = False
    # Whether the model must have masks, which are what the term is about.
    needs_masks: ClassVar[bool] = False
    # Whether a run acts by ``offset`` and ``pull`` alone, which vectorised clients can do.
    is_linear: ClassVar[bool] = False

    weight: Weight = 1.0

    def keeps_state(self) -> bool:
        """Tell whether a client's training changes what its node keeps."""
        return self.has_state

    def obstacle_to_vectorizing(self) -> str | None:
        """Return why vectorised clients cannot run the term, or None if they can."""
        return None if self.is_linear else "it has no form for several clients at once"

    def check(self, task: Task, settings: ClientSettings) -> None:
        """Refuse a task or local training for which the term has no meaning.

        Raises
        ------
        ValueError
            With what it is and what was expected.
        """

    def check_model(self, model: nn.Module) -> None:
        """Refuse a model on which the term cannot act.

        Raises
        ------
        ValueError
            With what it lacks and what was expected.
        """

    def begin(self, context: TermContext) -> TermRun:
        """Return what the term does in a client's training."""
        raise NotImplementedError
