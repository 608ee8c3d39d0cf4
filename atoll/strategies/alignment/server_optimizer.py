"""Server optimiser: torch's SGD and Adam on the model's arrays."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import numpy as np
import torch
from flwr.app import ArrayRecord
from torch import Tensor

from atoll.clients.arrays.tensors import tensor_of
from atoll.clients.training.optimizers import SGD, Adam, LocalOptimizer
from atoll.flower.arrays import array_record, to_array, view


class ServerOptimizer:
    """Optimiser of the server, one step a round; its state is part of checkpoints.

    Parameters
    ----------
    name : str
        "sgd" or "adam", with the semantics of ``torch.optim`` (Adam: bias correction, betas .9
        and .999, epsilon 1e-8, weight decay added to the gradient).
    learning_rate, weight_decay : float
        Of the optimiser.

    Attributes
    ----------
    learning_rate : float
        Of the next step.
    """

    def __init__(self, name: str, learning_rate: float, weight_decay: float = 0.0) -> None:
        self._name = name
        self.learning_rate = learning_rate
        self._weight_decay = weight_decay
        self._optimizer = self._fresh()

    def _fresh(self) -> LocalOptimizer:
        if self._name == "adam":
            return Adam(self.learning_rate, self._weight_decay)
        return SGD(self.learning_rate, 0.0, self._weight_decay)

    def reset(self) -> None:
        """Forget all state, as a new optimiser."""
        self._optimizer = self._fresh()

    def step(
        self, arrays: ArrayRecord, gradient: ArrayRecord, trained: Collection[str]
    ) -> ArrayRecord:
        """Return ``arrays`` after a step along the gradient of the same keys.

        Parameters
        ----------
        trained : Collection[str]
            The keys of what is trained. Buffers and frozen parameters stay as they are: momentum
            and weight decay would move them, whatever their gradient.
        """
        keys = [key for key in arrays if key in set(trained)]
        parameters = [_tensor(arrays, key) for key in keys]
        gradients = [
            _tensor(gradient, key).to(parameter.dtype)
            for key, parameter in zip(keys, parameters, strict=True)
        ]
        self._optimizer.learning_rate = self.learning_rate
        self._optimizer.step(parameters, gradients)
        changed = {key: p.numpy() for key, p in zip(keys, parameters, strict=True)}
        return array_record(
            {key: to_array(changed[key]) if key in changed else a for key, a in arrays.items()}
        )

    def state_dict(self) -> dict[str, Any]:
        """Return the state that :meth:`load_state_dict` restores."""
        return self._optimizer.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore the state of a checkpoint."""
        self._optimizer.load_state_dict(state)


def difference(before: ArrayRecord, after: ArrayRecord) -> ArrayRecord:
    """Return ``before - after``, the direction in which clients moved the model, reversed."""
    return array_record(
        {
            key: to_array(np.asarray(view(array) - view(after[key]), dtype=array.dtype))
            for key, array in before.items()
        }
    )


def flat_to_arrays(flat: Tensor, names: list[str], arrays: ArrayRecord) -> ArrayRecord:
    """Return a flat gradient under the keys of ``arrays``; what it has no part for is 0.

    Parameters
    ----------
    flat : Tensor
        The gradient by the parameters called ``names``, one after another.
    """
    sizes = [int(np.prod(arrays[name].shape)) for name in names]
    parts = dict(zip(names, torch.split(flat, sizes), strict=True))
    return array_record(
        {
            key: to_array(
                parts[key].reshape(array.shape).numpy().astype(array.dtype)
                if key in parts
                else np.zeros(array.shape, array.dtype)
            )
            for key, array in arrays.items()
        }
    )


def _tensor(arrays: ArrayRecord, key: str) -> Tensor:
    return tensor_of(arrays[key])
