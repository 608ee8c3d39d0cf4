"""Base of a run's models with their preprocessing."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from atoll.clients.data.files.dataset import Dataset, Split
from atoll.clients.data.inputs.base import Inputs
from atoll.clients.data.inputs.table import TableInputs
from atoll.clients.data.inputs.tokens import TokenInputs
from atoll.clients.tasks.kinds import AnyTask
from atoll.clients.tasks.task import Task
from atoll.clients.training.evaluation import ModelData, batch_of
from atoll.errors import DataUnavailableError
from atoll.platform.results.models.predictions import Predictions


@dataclass(frozen=True)
class ModelFormat:
    """What a model of rows or tokens is given, and what it predicts.

    Attributes
    ----------
    inputs : TableInputs or TokenInputs
        What an example is, with the statistics of the run's clients.
    task : Task
        What is predicted.

    Examples
    --------
    >>> from atoll import ModelFormat
    >>> from atoll.clients import Regression, TokenInputs
    >>> ModelFormat(TokenInputs(length=8, vocabulary=30), Regression()).task.kind
    'regression'
    """

    inputs: TableInputs | TokenInputs
    task: AnyTask

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes; none where no class is predicted."""
        return self.task.class_names


class PreparedModel(nn.Module):
    """Base of a run's network behind its preprocessing.

    Parameters
    ----------
    network : nn.Module
        The network, with a run's parameters; it is put into evaluation mode.
    data : ModelData
        What its inputs are, and its task.

    Attributes
    ----------
    network : nn.Module
        The network alone.
    data : ModelData
        What its inputs are, and its task.
    input_name : str
        What :meth:`forward` takes, in exported models.
    output_name : str
        What it gives.

    Examples
    --------
    >>> from torch import nn
    >>> from atoll import PreparedModel, TokenModel
    >>> from atoll.clients import NextToken, TokenInputs
    >>> inputs, task = TokenInputs(length=3, vocabulary=5), NextToken(vocabulary=5, length=3)
    >>> model = TokenModel(nn.Embedding(5, 5), inputs, task)
    >>> isinstance(model, PreparedModel), model.input_name
    (True, 'tokens')
    """

    input_name: ClassVar[str]
    output_name: ClassVar[str] = "outputs"

    def __init__(self, network: nn.Module, data: ModelData) -> None:
        super().__init__()
        self.network = network
        self.data = data
        self.device = next((p.device for p in network.parameters()), torch.device("cpu"))

    @property
    def task(self) -> Task:
        """What is predicted."""
        return self.data.task

    @property
    def data_inputs(self) -> Inputs:
        """What the network's inputs are."""
        return self.data.inputs

    @abstractmethod
    def tensor_of(self, examples: Any) -> Tensor:
        """Return examples as :meth:`forward` takes them, on the CPU.

        Raises
        ------
        AtollError
            If they are of another type, shape or value.
        """

    @abstractmethod
    def example(self, count: int) -> Tensor:
        """Return valid inputs of :meth:`forward`, to trace the model with."""

    @abstractmethod
    def described(self) -> dict[str, Any]:
        """Return what an exported model says of its inputs and preprocessing, for JSON."""

    def preprocessing_tensors(self) -> dict[str, Tensor]:
        """Return the numbers of the preprocessing by name, for files of tensors."""
        return {}

    def files(self) -> dict[str, str]:
        """Return further files of the preprocessing by name, as text."""
        return {}

    def predict(self, examples: Any) -> Predictions:
        """Return what the model says of examples; what these may be is said by the class."""
        given = self.tensor_of(examples)
        with torch.no_grad():
            batches = torch.split(given, batch_of(self.data_inputs))
            parts = [self(batch.to(self.device)).cpu() for batch in batches if len(batch)]
        outputs = torch.cat(parts) if parts else torch.zeros(0, *self.task.output_shape)
        return Predictions(self.task, outputs)

    def check_split(self, split: Split) -> None:
        """Refuse stored examples of another shape.

        Raises
        ------
        DataUnavailableError
            With the shape and what was expected.
        """
        expected, found = self.data_inputs.stored_shape, split.inputs.shape[1:]
        if found != expected:
            raise DataUnavailableError(
                f"examples are of shape {found}; expected {expected}, "
                f"{self.data_inputs.described} as in training"
            )

    def check_dataset(self, dataset: Dataset) -> None:
        """Refuse a data set with another task, or whose stored numbers mean something else.

        Raises
        ------
        DataUnavailableError
            With what differs.
        """
        here, expected = dataset.task, self.task
        if dataset.inputs.kind != self.data_inputs.kind or here.kind != expected.kind:
            raise DataUnavailableError(
                f"{dataset.directory}: is for {here.kind} of {dataset.inputs.described}; expected "
                f"{expected.kind} of {self.data_inputs.described}"
            )
        if here.outputs != expected.outputs:
            raise DataUnavailableError(
                f"{dataset.directory}: has {here.outputs} classes; expected the "
                f"{expected.outputs} of the run"
            )


def stored_tensor(examples: Any, inputs: Inputs) -> Tensor | None:
    """Return examples that are a tensor, an array or a split as a tensor with a row each.

    None if they are something else.

    Raises
    ------
    DataUnavailableError
        If the shape is not that of the inputs.
    """
    if isinstance(examples, Split):
        examples = examples.inputs.copy()
    if not isinstance(examples, Tensor):
        if not hasattr(examples, "__array_interface__"):
            return None
        try:
            examples = torch.as_tensor(examples.copy())
        except TypeError:
            raise DataUnavailableError(
                f"examples are an array of {examples.dtype}; expected numbers"
            ) from None
    tensor: Tensor = examples.detach().cpu()
    if tuple(tensor.shape) == inputs.stored_shape:
        tensor = tensor.unsqueeze(0)
    if tuple(tensor.shape[1:]) != inputs.stored_shape:
        raise DataUnavailableError(
            f"examples have the shape {tuple(examples.shape)}; expected "
            f"(n, {', '.join(map(str, inputs.stored_shape))})"
        )
    return tensor
