"""Predictions of a model, by the kind of its task."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from atoll.clients.tasks.classification import Classification
from atoll.clients.tasks.losses import is_sigmoid, probabilities_of
from atoll.clients.tasks.multi_label import MultiLabel
from atoll.clients.tasks.next_token import NextToken
from atoll.clients.tasks.regression import Regression
from atoll.clients.tasks.task import Task

Kind = TypeVar("Kind", bound=Task)


@dataclass(frozen=True, repr=False)
class Predictions:
    """What a model says of examples.

    Only the attributes of the model's task are there: ``labels``, ``names`` and
    ``probabilities`` of a classification, ``labels`` and ``probabilities`` of several labels,
    ``values`` of a regression, ``tokens`` of the next token.

    Attributes
    ----------
    task : Task
        What is predicted.
    outputs : Tensor
        The network's outputs, shape (n, ..., outputs), on the CPU.

    Examples
    --------
    >>> import torch
    >>> from atoll import Predictions
    >>> from atoll.clients import Classification, Regression
    >>> found = Predictions(Classification(classes=("no", "yes")), torch.tensor([[0.0, 2.0]]))
    >>> found.names, found.labels
    (['yes'], array([1]))
    >>> Predictions(Regression(center=10.0, scale=2.0), torch.tensor([[1.0]])).values
    array([12.], dtype=float32)
    """

    task: Task
    outputs: Tensor

    def __len__(self) -> int:
        return len(self.outputs)

    def __repr__(self) -> str:
        return f"Predictions({len(self)} examples, {self.task.kind})"

    @property
    def labels(self) -> NDArray[np.int64]:
        """The most probable class of each example, (n,); 0 or 1 of several labels, (n, labels)."""
        task = self._task("labels", Classification, MultiLabel)
        found: NDArray[np.int64] = task.predictions(self.outputs).numpy().astype(np.int64)
        return found

    @property
    def names(self) -> list[str]:
        """The name of each example's class."""
        classes = self._task("names", Classification).classes
        return [classes[label] for label in self.labels]

    @property
    def probabilities(self) -> NDArray[np.float32]:
        """The probability of each class or label: shape (n, classes)."""
        if isinstance(self._task("probabilities", Classification, MultiLabel), MultiLabel):
            return _array(torch.sigmoid(self.outputs.float()))
        found = probabilities_of(self.outputs.float())
        return _array(torch.cat([1 - found, found], -1) if is_sigmoid(self.outputs) else found)

    @property
    def values(self) -> NDArray[np.float32]:
        """The expected number of each example, in the units of the target: shape (n,)."""
        return _array(self._task("values", Regression).predictions(self.outputs))

    @property
    def tokens(self) -> NDArray[np.int64]:
        """The most probable next token at each place: shape (n, length)."""
        return _array(self._task("tokens", NextToken).predictions(self.outputs))

    def _task(self, name: str, *kinds: type[Kind]) -> Kind:
        if isinstance(self.task, kinds):
            return self.task
        # What a task does not have is a missing attribute, to hasattr too.
        raise AttributeError(
            f"predictions.{name}: the model's task is {self.task.kind!r}; expected "
            f"{' or '.join(repr(kind.model_fields['kind'].default) for kind in kinds)}"
        )


def _array(values: Tensor) -> NDArray[Any]:
    found: NDArray[Any] = values.numpy()
    return found
