"""Personal methods: their settings, and what one does in a client's training and evaluation.

A client's own model is made in two places. :meth:`PersonalMethod.train` takes the place of plain
local training and may keep a model with the node. :meth:`PersonalMethod.personalise` turns the
global model into the client's own one when the client evaluates.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from atoll.clients.data.client_inputs import ClientInputs
from atoll.clients.settings import ClientSettings, Section
from atoll.clients.tasks.task import Task
from atoll.clients.tasks.user_functions import LOSS, find_function, values_of
from atoll.clients.training.local_training import TrainingResult
from atoll.clients.training.objective.node_memory import NodeMemory


@dataclass(frozen=True)
class PersonalClient:
    """A client as a personal method sees it.

    Attributes
    ----------
    model : nn.Module
        At the global parameters, and the client's local ones.
    tensors : Mapping[str, Tensor]
        The model's tensors that training changes, by name: the same memory.
    local : frozenset[str]
        The names of those that stay with the client.
    inputs, labels : ClientInputs, Tensor
        The examples that it trains on, shape (n, ...).
    settings : ClientSettings
        ``[client]``.
    learning_rate : float
        The round's.
    seed : int
        Of the generators of what is personal, in this round and for this client.
    task : Task
        What is predicted.
    memory : NodeMemory
        What the method keeps with the node.
    train_plainly : Callable[[], TrainingResult]
        The training that the client does without a method: it changes the model.
    """

    model: nn.Module
    tensors: Mapping[str, Tensor]
    local: frozenset[str]
    inputs: ClientInputs
    labels: Tensor
    settings: ClientSettings
    learning_rate: float
    seed: int
    task: Task
    memory: NodeMemory
    train_plainly: Callable[[], TrainingResult]

    @property
    def parameters(self) -> dict[str, nn.Parameter]:
        """The model's trained parameters, by name."""
        return {name: p for name, p in self.model.named_parameters() if p.requires_grad}

    def mean_loss(self, outputs: Tensor, labels: Tensor) -> Tensor:
        """Return the mean loss over a batch: ``client.loss``, or the task's."""
        loss = self.settings.loss
        if loss is None:
            return self.task.mean_loss(outputs, labels)
        return values_of(loss, LOSS, outputs, labels, find_function(loss, LOSS)).mean()

    def generator(self) -> torch.Generator:
        """Return a generator that shuffles the examples."""
        return torch.Generator().manual_seed(self.seed)

    def copies(self) -> dict[str, Tensor]:
        """Return copies of the tensors."""
        return {name: tensor.clone() for name, tensor in self.tensors.items()}

    def put(self, values: Mapping[str, Tensor]) -> None:
        """Write values into the tensors of these names."""
        for name, value in values.items():
            self.tensors[name].copy_(value)


class PersonalMethod(Section):
    """Base of the personal methods; a subclass has its settings as fields.

    Examples
    --------
    >>> from atoll.clients import PersonalMethod
    >>> class Halved(PersonalMethod):
    ...     '''The global model with all of its parameters multiplied.'''
    ...
    ...     factor: float = 0.5
    ...
    ...     def personalise(self, client):
    ...         client.put({name: self.factor * value for name, value in client.tensors.items()})
    >>> Halved(factor=0.25).changes_training  # local training is FedAvg's
    False
    """

    # Whether :meth:`train` differs from plain local training.
    changes_training: ClassVar[bool] = False
    # Whether ``client.local`` must name something (True), may not (False), or either (None).
    takes_local: ClassVar[bool | None] = None
    # Whether it takes its steps itself, so that what plain training can do beside them it cannot.
    own_steps: ClassVar[bool] = False

    def check(self, settings: ClientSettings) -> None:
        """Refuse local training with which the method has no meaning.

        Raises
        ------
        ValueError
            With the key, the value and what was expected.
        """

    def train(self, client: PersonalClient) -> TrainingResult:
        """Train the model, which is then sent, and keep what is personal."""
        return client.train_plainly()

    def personalise(self, client: PersonalClient) -> None:
        """Put the client's own model into the model, which has the global parameters."""
