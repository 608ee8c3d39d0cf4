"""Terms for clients that lack classes: FedLC and FedRS change the logits of the cross-entropy."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from atoll.clients.ranges import Fraction, Positive
from atoll.clients.settings import ClientSettings
from atoll.clients.tasks.task import Task
from atoll.clients.training.objective.term import ObjectiveTerm, TermBatch, TermContext, TermRun
from atoll.clients.training.terms.class_checks import (
    check_classes,
    class_counts,
    log_probabilities,
)

# A class without examples counts as so many: its margin is 100 tau.
FEWEST = 1e-8


class LogitCalibration(ObjectiveTerm):
    """FedLC: the cross-entropy of logits minus tau n_c^(-1/4) (Zhang et al., 2022, eq. 7).

    n_c is the number of the client's examples of class c.

    Attributes
    ----------
    weight : float
        The share of this loss; the rest is the plain one's.
    tau : float
        The size of the margins.
    """

    tau: Positive = 1.0

    def check(self, task: Task, settings: ClientSettings) -> None:
        """Refuse tasks without classes."""
        check_classes(task, settings)

    def begin(self, context: TermContext) -> TermRun:
        """Return the calibrated loss minus the plain one."""
        counts = class_counts(context.labels, context.task.outputs)
        margins = self.tau * counts.clamp_min(FEWEST) ** -0.25
        return _with_logits(lambda outputs: outputs - margins[: outputs.shape[-1]])


class RestrictedSoftmax(ObjectiveTerm):
    """FedRS: logits of classes that the client lacks are multiplied by alpha (Li & Zhan, 2021).

    Attributes
    ----------
    weight : float
        The share of this loss; the rest is the plain one's.
    alpha : float
        The factor of the logits of missing classes.
    """

    alpha: Fraction = 0.5

    def check(self, task: Task, settings: ClientSettings) -> None:
        """Refuse tasks without classes."""
        check_classes(task, settings)

    def begin(self, context: TermContext) -> TermRun:
        """Return the restricted loss minus the plain one."""
        counts = class_counts(context.labels, context.task.outputs)
        factors = torch.where(counts > 0, 1.0, self.alpha)
        return _with_logits(lambda outputs: outputs * factors[: outputs.shape[-1]])


def _with_logits(change: Callable[[Tensor], Tensor]) -> TermRun:
    """Return the cross-entropy of changed logits minus the plain one."""

    def loss(batch: TermBatch) -> Tensor:
        log_probabilities(batch.outputs)
        changed = F.cross_entropy(change(batch.outputs), batch.labels)
        return changed - batch.task.mean_loss(batch.outputs, batch.labels)

    return TermRun(loss=loss)
