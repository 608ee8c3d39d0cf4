"""ConR: features of examples with other targets and like predictions are pushed apart."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from atoll.clients.ranges import Positive, Weight
from atoll.clients.settings import ClientSettings
from atoll.clients.tasks.regression import Regression
from atoll.clients.tasks.task import Task
from atoll.clients.training.objective.term import ObjectiveTerm, TermBatch, TermContext, TermRun


class ContrastiveRegularizer(ObjectiveTerm):
    """ConR, a contrast of features for regressions with rare targets (Keramati et al., 2024).

    Of an example j, others of the batch are positive if their targets are within ``window`` of its
    own, and negative if the targets are not and the predictions are. With the features' cosine
    similarities s and the temperature T, the loss of j is the mean over its positives i of
    -log e^(s_ji/T) / (sum over positives e^(s_jp/T) + sum over negatives w_jq e^(s_jq/T)), where
    w_jq = e^(push |y_j - y_q|). Examples without a positive or a negative have none. Predictions
    choose the negatives and have no gradient.

    Attributes
    ----------
    weight : float
        beta: 4 in the released code, for age.
    window : float
        In the units of the targets: 1 year in the released code.
    temperature : float
        T.
    push : float
        How much more a negative weighs for each unit of its target's distance.
    """

    weight: Weight = 4.0
    window: Positive = 1.0
    temperature: Positive = 0.07
    push: Weight = 0.01

    def check(self, task: Task, settings: ClientSettings) -> None:
        """Refuse tasks whose targets have no distance."""
        if not isinstance(task, Regression):
            raise ValueError(
                f"it is about targets that are numbers, and the task is a {task.kind}; expected a "
                "regression"
            )

    def begin(self, context: TermContext) -> TermRun:
        """Return the contrast."""

        def loss(batch: TermBatch) -> Tensor:
            assert batch.features is not None
            predicted = batch.task.predictions(batch.outputs.detach())
            return self.contrast(batch.features.flatten(1), batch.labels.to(predicted), predicted)

        return TermRun(loss=loss, needs_features=True)

    def contrast(self, features: Tensor, targets: Tensor, predicted: Tensor) -> Tensor:
        """Return the mean loss over a batch.

        Parameters
        ----------
        features : Tensor
            Shape (n, d).
        targets, predicted : Tensor
            In the same units, shape (n,).
        """
        distances = (targets[:, None] - targets[None]).abs()
        is_near = distances <= self.window
        is_positive = is_near & ~torch.eye(len(targets), dtype=torch.bool, device=targets.device)
        is_negative = ~is_near & ((predicted[:, None] - predicted[None]).abs() <= self.window)
        directions = F.normalize(features, dim=1)
        similar = directions @ directions.mT / self.temperature
        pushed = similar + self.push * distances
        # The logarithm of a sum over positives and negatives, each row of at least its positives.
        among = torch.where(is_positive, similar, torch.where(is_negative, pushed, -torch.inf))
        counts = is_positive.sum(1)
        is_anchor = (counts > 0) & is_negative.any(1)
        among = torch.where(is_anchor[:, None], among, 0.0)
        totals = torch.logsumexp(among, 1)
        means = torch.where(is_positive, similar, 0.0).sum(1) / counts.clamp_min(1)
        return torch.where(is_anchor, totals - means, 0.0).mean()
