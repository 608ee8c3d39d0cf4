"""Terms that add nothing to the loss: clients report what a strategy weighs their moves by."""

from __future__ import annotations

from typing import ClassVar

import torch

from atoll.clients.settings import ClientSettings
from atoll.clients.tasks.task import Task
from atoll.clients.training.objective.term import (
    LocalEnd,
    ObjectiveTerm,
    TermContext,
    TermReply,
    TermRun,
)


class NormalizedUpdates(ObjectiveTerm):
    """FedNova's ||a_i||_1: what the steps' gradients weigh in a client's move (Wang et al., 2020).

    The reply has the metrics ``normalizer`` (||a_i||_1), ``normalized-examples`` (the examples
    divided by it) and ``scaled-steps`` (||a_i||_1 times the client's part of tau_eff).
    """

    of_strategy: ClassVar[str | None] = "FedNova"
    is_linear: ClassVar[bool] = True

    def check(self, task: Task, settings: ClientSettings) -> None:
        """Refuse optimisers whose move is no weighted sum of gradients."""
        if settings.optimizer != "sgd":
            raise ValueError(
                "FedNova divides a client's move by the weights of its gradients, and "
                f"client.optimizer = {settings.optimizer!r} adapts them; expected 'sgd'"
            )

    def begin(self, context: TermContext) -> TermRun:
        """Return the report."""
        momentum = context.settings.momentum

        def end(done: LocalEnd) -> TermReply:
            pull = done.learning_rate * context.proximal_mu
            normalizer = gradient_weights(done.steps, momentum, pull)
            effective = float(done.steps) if context.proximal_mu else normalizer
            return TermReply(
                metrics={
                    "normalizer": normalizer,
                    "normalized-examples": done.examples / normalizer if normalizer else 0.0,
                    "scaled-steps": normalizer * effective,
                }
            )

        return TermRun(end=end)


def gradient_weights(steps: int, momentum: float, pull: float) -> float:
    """Return ||a||_1 of that many steps of SGD: the move by equal gradients of 1 and a rate of 1.

    Parameters
    ----------
    steps : int
        Steps taken.
    momentum : float
        Of SGD.
    pull : float
        The learning rate times FedProx's mu, whose term is part of each step's gradient.

    Examples
    --------
    >>> gradient_weights(3, 0.0, 0.0), gradient_weights(3, 0.5, 0.0), gradient_weights(2, 0.0, 0.5)
    (3.0, 4.25, 1.5)
    """
    counter = total = 0.0
    for _ in range(steps):
        counter = momentum * counter + 1.0 - pull * total
        total += counter
    return total


class ReportedNorms(ObjectiveTerm):
    """FedExP's ||x - y_i||^2: the metric ``squared-norm`` of the reply."""

    of_strategy: ClassVar[str | None] = "FedExP"
    is_linear: ClassVar[bool] = True

    def begin(self, context: TermContext) -> TermRun:
        """Return the report."""

        def end(done: LocalEnd) -> TermReply:
            squares = [moved.double().square().sum() for moved in done.moved]
            return TermReply(metrics={"squared-norm": float(torch.stack(squares).sum())})

        return TermRun(end=end)
