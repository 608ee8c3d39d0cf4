"""Models of an earlier round, frozen: teachers and contrasts of the model that trains."""

from __future__ import annotations

import copy
from collections.abc import Mapping

import torch
from torch import Tensor, nn


class FrozenModel:
    """A copy of a model that does not train, in evaluation mode.

    Parameters
    ----------
    model : nn.Module
        Copied as it is now.
    head : nn.Module or None
        Its last module, for :meth:`features`.
    state : Mapping[str, Tensor], optional
        What :func:`state_of` returned, in place of the same tensors of ``model``.
    """

    def __init__(
        self, model: nn.Module, head: nn.Module | None, state: Mapping[str, Tensor] | None = None
    ) -> None:
        names = {id(module): name for name, module in model.named_modules()}
        self._model = copy.deepcopy(model).eval().requires_grad_(False)
        self._head = None if head is None else self._model.get_submodule(names[id(head)])
        if state:
            self._model.load_state_dict(dict(state), strict=False)

    @torch.no_grad()
    def outputs(self, inputs: Tensor) -> Tensor:
        """Return the model's outputs, shape (n, ...)."""
        found: Tensor = self._model(inputs)
        return found

    @torch.no_grad()
    def features(self, inputs: Tensor) -> Tensor:
        """Return the head's inputs, shape (n, d)."""
        if self._head is None:
            raise ValueError("the model has no head whose inputs a term could see")
        seen: list[Tensor] = []

        def keep(module: nn.Module, given: tuple[Tensor, ...]) -> None:
            seen.append(given[0])

        handle = self._head.register_forward_pre_hook(keep)
        try:
            self._model(inputs)
        finally:
            handle.remove()
        return seen[-1]


def state_of(model: nn.Module) -> dict[str, Tensor]:
    """Return copies of what training changes: trained parameters, and buffers."""
    frozen = {name for name, p in model.named_parameters() if not p.requires_grad}
    state = model.state_dict()
    return {name: value.detach().clone() for name, value in state.items() if name not in frozen}
