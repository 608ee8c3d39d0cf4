"""First layer of a model that SPEAR inverts, and the examples that its inputs stand for."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from atoll.attacks.base.optimization_attack import to_unit
from atoll.attacks.threat.observation import Observation
from atoll.attacks.threat.table_space import TableSpace
from atoll.clients.data.inputs.images import ImageInputs
from atoll.clients.data.inputs.table import TableInputs
from atoll.clients.models.tables import EmbeddedRows
from atoll.errors import AttackError

# Layers that only change the shape of their input.
_SHAPES = (nn.Flatten, nn.Identity, nn.Unflatten)


@dataclass(frozen=True)
class FirstLayer:
    """A linear layer on the examples, with a bias and a ReLU after it.

    Attributes
    ----------
    weight, bias : int
        Where these are among the parameters.
    rows : EmbeddedRows or None
        What puts categories of a table's rows into numbers before the layer.
    """

    weight: int
    bias: int
    rows: EmbeddedRows | None

    def joined(self, tensors: tuple[Tensor, ...] | list[Tensor]) -> Tensor:
        """Return weight and bias side by side: float64 on the CPU, shape (units, inputs + 1)."""
        weight, bias = tensors[self.weight], tensors[self.bias]
        return torch.cat([weight, bias[:, None]], 1).double().cpu()

    def examples_of(self, observation: Observation, inputs: Tensor) -> Tensor:
        """Return the examples that the layer's inputs, (n, inputs), stand for, as attacks do."""
        if isinstance(observation.inputs, TableInputs):
            return TableSpace(observation.inputs).stored(self._relaxed(observation.inputs, inputs))
        images = inputs.view(-1, *observation.space.shape)
        return to_unit(observation, images.to(observation.model.device)).float()

    def model_inputs_of(self, observation: Observation, inputs: Tensor) -> Tensor:
        """Return the model's inputs for inputs of the layer: (n, ...)."""
        if isinstance(observation.inputs, TableInputs):
            given = self._relaxed(observation.inputs, inputs)
        else:
            given = inputs.view(-1, *observation.space.shape)
        return given.float().to(observation.model.device)

    def _relaxed(self, inputs: TableInputs, values: Tensor) -> Tensor:
        """Return rows with one-hot categories: of each column the nearest embedding's."""
        at = inputs.number_width
        if self.rows is None or not self.rows.cardinalities:
            return values
        parts = [values[:, :at]]
        for table in self.rows.embeddings.parameters():
            own = table.detach().double().cpu()
            nearest = torch.cdist(values[:, at : at + own.shape[1]], own).argmin(1)
            parts.append(nn.functional.one_hot(nearest, len(own)).to(values.dtype))
            at += own.shape[1]
        return torch.cat(parts, 1)


def first_layer(observation: Observation) -> FirstLayer:
    """Return the layer.

    Raises
    ------
    AttackError
        If the model does not begin with a linear layer that has a bias and a ReLU after it, or does
        not train it.
    """
    expected = "expected a linear layer on the examples, with a bias, followed by a ReLU ('mlp')"
    rows, leaves = None, list[tuple[str, nn.Module]]()
    for name, module in observation.model.module.named_modules():
        if isinstance(module, EmbeddedRows):
            rows = module
        elif not any(True for _ in module.children()) and not isinstance(module, _SHAPES):
            leaves.append((name, module))
    leaves = [one for one in leaves if rows is None or not isinstance(one[1], nn.Embedding)]
    if len(leaves) < 2:
        raise AttackError(f"spear cannot invert the model's layers: {expected}")
    (name, linear), (after, activation) = leaves[:2]
    if (
        not isinstance(linear, nn.Linear)
        or linear.bias is None
        or linear.in_features != _width(observation, rows)
        or not isinstance(activation, nn.ReLU)
    ):
        raise AttackError(
            f"spear cannot invert a model that begins with {type(linear).__name__} ({name!r}) and "
            f"{type(activation).__name__} ({after!r}): {expected}"
        )
    weight = observation.model.place_of(linear.weight)
    bias = observation.model.place_of(linear.bias)
    if weight is None or bias is None:
        raise AttackError(f"the model's first layer ({name!r}) is not trained: {expected}")
    return FirstLayer(weight, bias, rows)


def _width(observation: Observation, rows: EmbeddedRows | None) -> int:
    """Return how many inputs the layer has if it takes examples as they are."""
    if isinstance(observation.inputs, ImageInputs):
        return math.prod(observation.space.shape)
    assert isinstance(observation.inputs, TableInputs)
    if rows is not None:
        return rows.width
    return -1 if observation.inputs.cardinalities else observation.inputs.number_width
