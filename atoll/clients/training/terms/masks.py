"""Regularized Mask Tuning: gradients of masks are dropped where the frozen model disagrees."""

from __future__ import annotations

import copy
from typing import ClassVar

import torch
from torch import Tensor, nn

from atoll.clients.ranges import Fraction, Positive, Weight
from atoll.clients.settings import ClientSettings
from atoll.clients.tasks.task import Task
from atoll.clients.training.gradients import gradients_of
from atoll.clients.training.objective.term import (
    GradientAt,
    ObjectiveTerm,
    TermBatch,
    TermContext,
    TermRun,
)
from atoll.clients.training.terms.class_checks import check_classes, log_probabilities
from atoll.clients.training.terms.earlier_models import FrozenModel
from atoll.clients.weight_settings import TRAINED_WEIGHT

# As in the released code, which divides by a sum of sizes.
EPSILON = 1e-8


class RegularizedMasks(ObjectiveTerm):
    """R-AMT's gradient dropout and its penalty on scores (Zheng et al., 2023).

    With the step's gradient a and the gradient b of the cross-entropy to the predictions of the
    model without masks, an entry of a stays with probability
    (sign(a) (a + b)/(|a| + |b|) + 1)/2, and is else multiplied by 1 - ``dropout``. The penalty is
    the sum over layers of the norm of the scores.

    Attributes
    ----------
    weight : float
        What the penalty is multiplied by.
    dropout : float
        lambda of the paper's eq. 7: 0.3 or 1 in the released code.
    temperature : float
        By which both models' outputs are divided.
    """

    asks_for_second_gradient: ClassVar[bool] = True
    needs_masks: ClassVar[bool] = True

    weight: Weight = 1e-4
    dropout: Fraction = 1.0
    temperature: Positive = 1.0

    def check(self, task: Task, settings: ClientSettings) -> None:
        """Refuse tasks without classes."""
        check_classes(task, settings)

    def begin(self, context: TermContext) -> TermRun:
        """Return the penalty, and the dropout of the gradient."""
        by_name = dict(context.model.named_parameters())
        parameters = [by_name[name] for name in context.names]
        is_score = [name.endswith(TRAINED_WEIGHT) for name in context.names]
        scores = [p for p, chosen in zip(parameters, is_score, strict=True) if chosen]
        teacher = FrozenModel(unmasked(context.model), None)
        generator = torch.Generator().manual_seed(context.seed)
        seen: list[Tensor] = []

        def loss(batch: TermBatch) -> Tensor:
            seen[:] = [batch.inputs]
            return torch.stack([score.norm() for score in scores]).sum()

        def gradient(first: list[Tensor], at: GradientAt) -> list[Tensor]:
            (inputs,) = seen
            wanted = torch.softmax(teacher.outputs(inputs) / self.temperature, -1)
            own = log_probabilities(context.model(inputs) / self.temperature)
            distance = -(wanted * own).sum(-1).mean() * self.temperature**2
            general = gradients_of(distance, parameters)
            return [
                self._dropped(a, b, generator) if chosen else a
                for a, b, chosen in zip(first, general, is_score, strict=True)
            ]

        return TermRun(loss=loss, gradient=gradient)

    def _dropped(self, own: Tensor, general: Tensor, generator: torch.Generator) -> Tensor:
        agreement = own.sign() * (own + general) / (own.abs() + general.abs() + EPSILON)
        drawn = torch.rand(own.shape, generator=generator).to(own)
        return ((1 - self.dropout) + self.dropout * ((agreement + 1) / 2 > drawn)) * own


def unmasked(model: nn.Module) -> nn.Module:
    """Return a copy of a model whose masks are all 1."""
    whole = copy.deepcopy(model)
    for name, parameter in whole.named_parameters():
        if name.endswith(TRAINED_WEIGHT):
            parameter.detach().fill_(torch.inf)
    return whole
