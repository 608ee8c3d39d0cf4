"""Base class of poison: a Flower mod that acts on the attacker's clients alone.

A mod stands around every client of a federation; a poison acts on the nodes that it names, from a
round on, and hands all other messages on as they are. On stock Flower the same object goes into
``ClientApp.train(mods=[...])``. What an attacker's client sends is decided after the client's own
mods: poison is the outermost one (but secure aggregation's, which masks what it is given).
"""

from __future__ import annotations

from abc import abstractmethod
from functools import lru_cache
from pathlib import Path
from typing import Annotated, ClassVar, Literal

import numpy as np
import torch
from flwr.app import Context, Error, Message
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor, nn

from atoll import flower
from atoll.clients.apps.training_messages import config_of, partition_of, round_of
from atoll.clients.data.files.dataset import Dataset
from atoll.clients.mods import QueryMod
from atoll.clients.ranges import Count, Rounds, Seed
from atoll.clients.sections import FilePath, Section
from atoll.clients.tasks.classification import Classification
from atoll.randomness import derive_seed


class Poison(Section, QueryMod):
    """An attack by some of a federation's clients, as a Flower mod.

    Its fields are the keys of ``[poison]`` beside ``attack``.

    Attributes
    ----------
    name : str
        As in an experiment file.
    acts_on : "examples", "update" or "moments"
        What it changes: the examples that a client trains on, the update that it sends, or the
        moments that it answers queries with.
    has_goal : bool
        Whether test examples are to be classed as something in particular: its success is measured.
    nodes : tuple[int, ...]
        Node numbers of the attacker's clients, from 1.
    start_round : int
        The first round in which they attack.
    seed : int
        Decides what the attack draws.
    dataset : Path or None
        Folder of the data set, where the attack needs to know it.

    Examples
    --------
    >>> from atoll.attacks import LabelFlip, Poison
    >>> issubclass(LabelFlip, Poison), LabelFlip(nodes=(2, 5), start_round=3).nodes
    (True, (2, 5))
    """

    name: ClassVar[str]
    acts_on: ClassVar[Literal["examples", "update", "moments"]]
    has_goal: ClassVar[bool] = False

    nodes: Annotated[tuple[Count, ...], Field(strict=False)] = ()
    start_round: Rounds = 1
    seed: Seed = 0
    dataset: FilePath | None = None

    @abstractmethod
    def act(
        self, message: Message, context: Context, call_next: flower.ClientAppCallable
    ) -> Message:
        """Return what an attacker's client answers."""

    def aims(self, data: Dataset, indices: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return those of some test examples that the attack aims at."""
        raise NotImplementedError

    def goal(self, data: Dataset, chosen: NDArray[np.int64]) -> tuple[Tensor, Tensor]:
        """Return test examples that the attack aims at, as a model is given them.

        Parameters
        ----------
        data : Dataset
            The data set.
        chosen : NDArray[int64]
            Of those that :meth:`aims` returns.

        Returns
        -------
        tuple[Tensor, Tensor]
            Inputs with the trigger, if there is one, shape (n, ...), and the classes that the
            attacker wants them classed as, shape (n,).
        """
        raise NotImplementedError

    def check_data(self, data: Dataset, model: nn.Module) -> None:
        """Raise a ``ValueError`` if the attack cannot be made on such data or such a model."""

    def __call__(
        self, message: Message, context: Context, call_next: flower.ClientAppCallable
    ) -> Message:
        """Answer a message, as a Flower mod."""
        node = partition_of(context) + 1
        if node not in self.nodes or round_of(config_of(message)) < self.start_round:
            return call_next(message, context)
        return self.act(message, context, call_next)

    def generator(self, *what: int | str) -> torch.Generator:
        """Return a generator on the CPU that depends on the seed and on ``what`` alone."""
        return torch.Generator().manual_seed(derive_seed(self.seed, "poison", *what))

    def data(self) -> Dataset:
        """Return the data set.

        Raises
        ------
        ValueError
            If the attack was not told where it is.
        """
        if self.dataset is None:
            raise ValueError(f"the attack {self.name!r} needs the data set's folder ('dataset')")
        return opened(self.dataset)


@lru_cache(maxsize=4)
def opened(folder: Path) -> Dataset:
    """Return a data set, which is mapped once a process."""
    return Dataset(folder)


def is_train(message: Message) -> bool:
    """Tell whether a message asks for training."""
    return message.metadata.message_type.partition(".")[0] == "train"


def refusal(message: Message, reason: str) -> Message:
    """Return an error as the answer to a message."""
    return Message(Error(flower.PRECONDITION_FAILED, reason), reply_to=message)


def classes_of(data: Dataset) -> int:
    """Return the number of classes of a classification.

    Raises
    ------
    ValueError
        If the task is another.
    """
    if not isinstance(data.task, Classification):
        raise ValueError(f"the task is {data.task.kind}, and the attack needs a classification")
    return data.task.outputs


def flattened(tensors: list[Tensor]) -> Tensor:
    """Return tensors as one vector, float64."""
    return torch.cat([values.detach().double().flatten() for values in tensors])


def shaped_as(vector: Tensor, tensors: list[Tensor]) -> list[Tensor]:
    """Return the parts of a vector with the shapes and dtypes of ``tensors``."""
    parts = torch.split(vector, [values.numel() for values in tensors])
    return [
        part.reshape(values.shape).to(values.dtype)
        for part, values in zip(parts, tensors, strict=True)
    ]
