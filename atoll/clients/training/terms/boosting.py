"""Sequential training of a network's last layers by gradient boosting, group by group.

Emami & Martinez-Munoz (2023), "Sequential Training of Neural Networks With Gradient Boosting",
arXiv 1909.12098.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from atoll.clients.ranges import Positive, Width
from atoll.clients.settings import ClientSettings
from atoll.clients.tasks.task import Task
from atoll.clients.training.objective.term import (
    GradientAt,
    ObjectiveTerm,
    TermBatch,
    TermContext,
    TermRun,
)


class GradientBoosting(ObjectiveTerm):
    """Stages of a network's last hidden layer: each group of neurons fits what is left to predict.

    The neurons are cut into ``stages`` groups, and the rounds into as many parts. In a part its
    group h is trained on 1/2 ||h(x) - step r||^2, where r is minus the gradient of the loss by the
    outputs of the earlier groups; everything else stays. In the first round the last layer's bias
    alone is trained, on the loss: a constant prediction.

    Attributes
    ----------
    weight : float
        1 has no part in it; at 0 the term is left out.
    stages : int
        The number of groups; divides the number of neurons.
    step : float
        How much of r a group is to add.
    """

    stages: Width = 10
    step: Positive = 1.0

    def check(self, task: Task, settings: ClientSettings) -> None:
        """Refuse what would move parameters that have no gradient, or another loss."""
        if settings.weight_decay:
            raise ValueError(
                f"client.weight_decay = {settings.weight_decay:g} would move the groups of other "
                "stages; expected 0"
            )
        if settings.loss is not None:
            raise ValueError(
                f"it descends another loss, and client.loss = {settings.loss!r} replaces that; "
                "expected one without the other"
            )

    def check_model(self, model: nn.Module) -> None:
        """Refuse models whose last two layers are not linear, or whose neurons do not divide."""
        hidden, _ = last_layers(model)
        if hidden.out_features % self.stages:
            raise ValueError(
                f"stages = {self.stages}: the last hidden layer has {hidden.out_features} neurons; "
                "expected a divisor of that"
            )

    def begin(self, context: TermContext) -> TermRun:
        """Return the stage's loss, and the gradient of its group alone."""
        hidden, head = last_layers(context.model)
        stage = self.stage(context.server_round, context.num_rounds)
        size = hidden.out_features // self.stages
        group = slice((stage - 1) * size, stage * size) if stage else slice(0, 0)
        by_name = dict(context.model.named_parameters())
        masks = _masks([by_name[name] for name in context.names], hidden, head, group)

        def loss(batch: TermBatch) -> Tensor:
            assert batch.features is not None
            own = batch.features[:, group] @ head.weight[:, group].mT
            earlier = (batch.outputs - own).detach().requires_grad_()
            with torch.enable_grad():
                total = batch.task.losses(earlier, batch.labels).sum()
            (slope,) = torch.autograd.grad(total, earlier)
            fitted = 0.5 * (own + self.step * slope).square().sum(-1).mean()
            return fitted - batch.task.mean_loss(batch.outputs, batch.labels)

        def gradient(first: list[Tensor], at: GradientAt) -> list[Tensor]:
            return list(torch._foreach_mul(first, masks))

        if not stage:
            return TermRun(gradient=gradient)
        return TermRun(loss=loss, needs_features=True, gradient=gradient)

    def stage(self, server_round: int, num_rounds: int) -> int:
        """Return which group is trained in a round, from 1; 0 for the bias."""
        if server_round == 1:
            return 0
        rounds = max(num_rounds - 1, 1)
        return min(1 + (server_round - 2) * self.stages // rounds, self.stages)


def last_layers(model: nn.Module) -> tuple[nn.Linear, nn.Linear]:
    """Return a model's last hidden layer and its last layer.

    Raises
    ------
    ValueError
        If they are not linear layers, one into the other.
    """
    linear = [module for module in model.modules() if isinstance(module, nn.Linear)]
    if len(linear) < 2 or linear[-2].out_features != linear[-1].in_features:
        raise ValueError("the model does not end in two linear layers; expected 'boosted-mlp', say")
    return linear[-2], linear[-1]


def _masks(
    parameters: Sequence[Tensor], hidden: nn.Linear, head: nn.Linear, group: slice
) -> list[Tensor]:
    """Return 1 for what a stage trains, and 0 elsewhere; without a group, the last bias."""
    masks = []
    for parameter in parameters:
        mask = torch.zeros_like(parameter)
        if group.stop == 0:
            mask += float(parameter is head.bias)
        elif parameter is hidden.weight or parameter is hidden.bias:
            mask[group] = 1.0
        elif parameter is head.weight:
            mask[:, group] = 1.0
        masks.append(mask.detach())
    return masks
