"""Loss and gradient with the head's parameters moved, for searches over heads."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from atoll.clients.models.head import ModelSizes
from atoll.clients.models.head_outputs import HeadOutputs
from atoll.clients.moments.statistic import DomainContext, Statistic, vectors_of


@dataclass(frozen=True)
class MovedHeadRisk(Statistic):
    """The loss with the head moved by v_1, ..., v_k, and its gradient by the head there.

    The moment has k rows: the loss, and then one number a parameter of the head.
    """

    name: ClassVar[str] = "moved-head-risk"

    def shape(self, sizes: ModelSizes, context: DomainContext) -> tuple[int, ...]:
        """Return (k, 1 + h)."""
        k, h = vectors_of(context).shape
        return (k, 1 + h)

    def inner(self, outputs: HeadOutputs, cotangent: Tensor, context: DomainContext) -> Tensor:
        """See :class:`Statistic`."""
        return (cotangent * self._sums(outputs, context)).sum()

    def total(
        self,
        outputs: HeadOutputs,
        sizes: ModelSizes,
        context: DomainContext,
        *,
        create_graph: bool = False,
    ) -> Tensor:
        """See :class:`Statistic`; without a graph, one gradient by the head."""
        sums = self._sums(outputs, context)
        return sums if create_graph else sums.detach()

    def _sums(self, outputs: HeadOutputs, context: DomainContext) -> Tensor:
        with torch.enable_grad():
            moves = vectors_of(context).to(outputs.logits).detach().requires_grad_()
            losses = torch.stack(
                [
                    outputs.loss.losses(_logits_at(outputs, move), outputs.labels).sum()
                    for move in moves
                ]
            )
            (gradients,) = torch.autograd.grad(losses.sum(), moves, create_graph=True)
            return torch.cat([losses[:, None], gradients], 1)


def _logits_at(outputs: HeadOutputs, move: Tensor) -> Tensor:
    """Return the logits of the head moved by a vector of its parameters, shape (h,)."""
    if outputs.has_linear_head:
        return outputs.logits + outputs.project(move[None])[0]
    parameters = dict(outputs.head.named_parameters())
    parts = torch.split(move, [parameter.numel() for parameter in parameters.values()])
    moved = {
        name: parameter + part.view_as(parameter)
        for (name, parameter), part in zip(parameters.items(), parts, strict=True)
    }
    logits: Tensor = torch.func.functional_call(outputs.head, moved, (outputs.features,))
    return logits
