"""Tensors of a model as Flower arrays, read and written in place."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

import numpy as np
import torch
from flwr.app import ArrayRecord
from numpy.typing import NDArray
from torch import Tensor, nn

from atoll.clients.arrays.travelling import travelling_state
from atoll.flower.arrays import array_record, to_array, view


class ModelArrays:
    """A long-lived model's parameters and buffers as Flower arrays, in and out.

    Of a model with frozen parameters only what training changes (``travelling.py``).

    Parameters
    ----------
    model : nn.Module
        Its tensors are written in place and must stay the same objects; the names are those of
        ``state_dict()``.
    local : Collection[str]
        Names of tensors that stay with each client: neither read nor written.

    Examples
    --------
    >>> from torch import nn
    >>> from atoll.clients import ModelArrays
    >>> record = ModelArrays(nn.Linear(2, 3)).read()
    >>> {key: array.shape for key, array in record.items()}
    {'weight': (3, 2), 'bias': (3,)}
    >>> ModelArrays(nn.Linear(2, 3)).load(record)
    """

    def __init__(self, model: nn.Module, local: Collection[str] = ()) -> None:
        self._model = model
        self._tensors = {
            key: value.detach()
            for key, value in travelling_state(model).items()
            if key not in local
        }
        self._trained = [k for k, p in model.named_parameters() if p.requires_grad]
        self._on_cpu = all(value.device.type == "cpu" for value in self._tensors.values())
        # NumPy's copyto on a view costs a fraction of Tensor.copy_, and there is one a client.
        self._views = {key: v.numpy() for key, v in self._tensors.items()} if self._on_cpu else {}

    def load(self, record: ArrayRecord) -> None:
        """Copy the arrays of ``record`` into the model.

        Runs of earlier versions have frozen parameters among them; those are copied, too.

        Raises
        ------
        ValueError
            If keys or shapes differ.
        """
        if record.keys() != self._tensors.keys():
            record = self._with_frozen_loaded(record)
        for key, array in record.items():
            values = view(array)
            if values.shape != tuple(self._tensors[key].shape):
                raise ValueError(
                    f"the array {key!r} has shape {values.shape}, the model expects "
                    f"{tuple(self._tensors[key].shape)}"
                )
            if self._on_cpu:
                np.copyto(self._views[key], values, casting="unsafe")
            else:
                self._tensors[key].copy_(torch.from_numpy(np.array(values)))

    def _with_frozen_loaded(self, record: ArrayRecord) -> ArrayRecord:
        """Copy a whole model's frozen tensors, and return the other arrays."""
        state = self._model.state_dict()
        if record.keys() != state.keys():
            missing = sorted(self._tensors.keys() ^ record.keys())
            raise ValueError(f"the arrays do not fit the model: {missing[:4]} are in one of both")
        for key in state.keys() - self._tensors.keys():
            values = view(record[key])
            if values.shape != tuple(state[key].shape):
                raise ValueError(f"the array {key!r} has shape {values.shape}, which is another")
            state[key].copy_(torch.from_numpy(np.array(values)))
        return array_record({key: record[key] for key in self._tensors})

    def values(self) -> dict[str, NDArray[Any]]:
        """Return the model's tensors as NumPy arrays: views, where they are in main memory."""
        return (
            self._views if self._on_cpu else {k: v.cpu().numpy() for k, v in self._tensors.items()}
        )

    def snapshot(self) -> list[Tensor]:
        """Return copies of the model's tensors, for :meth:`restore`."""
        return [value.clone() for value in self._tensors.values()]

    def restore(self, snapshot: list[Tensor]) -> None:
        """Restore the model's tensors from a snapshot."""
        torch._foreach_copy_(list(self._tensors.values()), snapshot)

    def read(self) -> ArrayRecord:
        """Return the model's tensors."""
        return array_record({key: to_array(values) for key, values in self.values().items()})

    def read_gradient(self, gradient: Sequence[Tensor]) -> ArrayRecord:
        """Return a gradient under the names of the model's tensors.

        Parameters
        ----------
        gradient : Sequence[Tensor]
            By each trainable parameter, in the order of ``model.parameters()``; buffers have a
            gradient of zero.
        """
        values = {key: torch.zeros_like(tensor) for key, tensor in self._tensors.items()}
        values.update(zip(self._trained, gradient, strict=True))
        return array_record({key: to_array(v.cpu().numpy()) for key, v in values.items()})
