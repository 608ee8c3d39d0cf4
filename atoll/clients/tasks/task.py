"""Task of a data set: what is predicted, by which loss it is trained, and how it is judged."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from functools import reduce
from operator import add
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict
from torch import Tensor

from atoll.clients.tasks.output_loss import OutputLoss

Metrics = dict[str, int | float | list[int] | list[float]]


@dataclass(frozen=True)
class Measured:
    """Measurements of a model's outputs on some examples; they add up over examples.

    Attributes
    ----------
    sums : dict[str, NDArray]
        Sums over the examples, by name; their shapes are those of the task.
    samples : dict[str, NDArray]
        A row for each example, for metrics that are no function of sums (an AUROC's scores).

    Examples
    --------
    >>> import numpy as np
    >>> from atoll.clients import Measured
    >>> one = Measured({"correct": np.array([3])}, {"score": np.array([0.25])})
    >>> (one + one).sums["correct"], (one + one).samples["score"]
    (array([6]), array([0.25, 0.25]))
    """

    sums: dict[str, NDArray[Any]]
    samples: dict[str, NDArray[Any]] = field(default_factory=dict)

    def __add__(self, other: Measured) -> Measured:
        return Measured(
            # What cannot be said of some examples cannot be said of all.
            {n: value + other.sums[n] for n, value in self.sums.items() if n in other.sums},
            {
                name: np.concatenate([value, other.samples[name]])
                for name, value in self.samples.items()
            },
        )


class Task(BaseModel, ABC):
    """Base of the tasks: what is predicted of an example, the loss, and the metrics.

    A data set has one, and it is in ``dataset.json``. Losses are a value for each example, so
    that they can be weighted, clipped and vectorised by example.

    Attributes
    ----------
    kind : str
        The task's name in files.

    Examples
    --------
    >>> from atoll.clients import load_dataset
    >>> task = load_dataset("digits").task
    >>> task.kind, task.outputs, task.metrics
    ('classification', 10, ('accuracy', 'loss', 'calibration_error'))
    """

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)

    kind: str

    @property
    @abstractmethod
    def outputs(self) -> int:
        """Number of a model's outputs: its last dimension."""

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names of the classes; none where no class is predicted."""
        return ()

    @property
    @abstractmethod
    def metrics(self) -> tuple[str, ...]:
        """Names of the metrics; the first is the main one."""

    @property
    @abstractmethod
    def means(self) -> tuple[str, ...]:
        """Metrics that are means over predictions: their weighted mean over clients is exact."""

    def predicted(self, measured: Measured, examples: int) -> int:
        """Return how many predictions were measured; by default one an example."""
        return examples

    @property
    def output_loss(self) -> OutputLoss | None:
        """The loss with its derivatives by the outputs; None where there is no closed form."""
        return None

    @abstractmethod
    def losses(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return each example's loss.

        Parameters
        ----------
        outputs : Tensor
            The model's, shape (n, ..., outputs).
        targets : Tensor
            What is right, shape (n, ...).

        Returns
        -------
        Tensor
            Shape (n,).
        """

    def mean_loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return the mean of :meth:`losses`, a scalar."""
        return self.losses(outputs, targets).mean()

    @abstractmethod
    def predictions(self, outputs: Tensor) -> Tensor:
        """Return what is predicted, in the units of the data set."""

    @abstractmethod
    def blank_targets(self, count: int) -> Tensor:
        """Return valid targets for ``count`` examples, to try a model with."""

    @property
    def output_shape(self) -> tuple[int, ...]:
        """Shape of a model's outputs for one example."""
        return (self.outputs,)

    def check_outputs(self, outputs: Tensor) -> None:
        """Refuse outputs of a shape that the task does not have.

        Raises
        ------
        ValueError
            With the shape and what was expected.
        """
        expected = (len(outputs), *self.output_shape)
        if outputs.shape != expected:
            raise ValueError(
                f"it gives outputs of shape {tuple(outputs.shape)}, expected {expected}"
            )

    @abstractmethod
    def measure(self, outputs: Tensor, targets: Tensor) -> Measured:
        """Return the measurements of some examples, n >= 0, on the CPU."""

    @abstractmethod
    def summarise(self, measured: Measured) -> Metrics:
        """Return the metrics of all examples that were measured."""


def total(parts: list[Measured]) -> Measured:
    """Return the measurements of all parts, in their order; there must be one."""
    return reduce(add, parts)
