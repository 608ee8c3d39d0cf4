"""Tensors of a model that stay with each client, in a process whose clients share one model."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from torch import Tensor, nn


class LocalTensors:
    """Tensors of a long-lived model, with the values that clients begin with.

    Parameters
    ----------
    model : nn.Module
        At its initial parameters; its tensors are written in place.
    names : Collection[str]
        Of the tensors, as in ``state_dict()``.

    Examples
    --------
    >>> import torch
    >>> from torch import nn
    >>> model = nn.Linear(1, 1)
    >>> local = LocalTensors(model, ["bias"])
    >>> local.load({"bias": torch.tensor([5.0])})
    >>> local.read()
    {'bias': tensor([5.])}
    >>> local.load({})  # of a client that has not trained yet
    >>> bool(model.bias == 5.0)
    False
    """

    def __init__(self, model: nn.Module, names: Collection[str]) -> None:
        state = model.state_dict()
        self._tensors = {name: state[name].detach() for name in state if name in names}
        self._initial = {name: tensor.clone() for name, tensor in self._tensors.items()}

    def load(self, kept: Mapping[str, Tensor]) -> None:
        """Put a client's own values into the model; the initial ones where it has none.

        Raises
        ------
        ValueError
            If a shape differs.
        """
        for name, tensor in self._tensors.items():
            values = kept.get(name, self._initial[name])
            if values.shape != tensor.shape:
                raise ValueError(
                    f"the client's own {name!r} has shape {tuple(values.shape)}, the model "
                    f"expects {tuple(tensor.shape)}"
                )
            tensor.copy_(values)

    def read(self) -> dict[str, Tensor]:
        """Return copies of the values that are in the model."""
        return {name: tensor.clone() for name, tensor in self._tensors.items()}
