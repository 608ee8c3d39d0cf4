"""PS-KD: targets softened by the predictions of a model of an earlier round."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from atoll.clients.ranges import Fraction
from atoll.clients.settings import ClientSettings
from atoll.clients.tasks.task import Task
from atoll.clients.training.objective.term import (
    NO_REPLY,
    LocalEnd,
    ObjectiveTerm,
    TermBatch,
    TermContext,
    TermReply,
    TermRun,
)
from atoll.clients.training.terms.class_checks import check_classes, log_probabilities
from atoll.clients.training.terms.earlier_models import FrozenModel, state_of


class SelfDistillation(ObjectiveTerm):
    """PS-KD: the cross-entropy with targets (1 - a_t) y + a_t p_earlier (Kim et al., 2021, eq. 6).

    a_t = ``alpha`` t/T grows with the round t of T. There is no earlier model in a client's first
    round.

    Attributes
    ----------
    weight : float
        The share of this loss; the rest is the plain one's.
    alpha : float
        a_t in the last round.
    teacher : str
        "server": the model that was sent. "local": the client's own model of its last round.
    """

    alpha: Fraction = 0.8
    teacher: Literal["server", "local"] = "server"

    def keeps_state(self) -> bool:
        """Tell whether the teacher is the client's own model."""
        return self.teacher == "local"

    def check(self, task: Task, settings: ClientSettings) -> None:
        """Refuse tasks without classes."""
        check_classes(task, settings)

    def begin(self, context: TermContext) -> TermRun:
        """Return the soft loss minus the plain one."""
        is_local = self.teacher == "local"
        before = context.memory.read(context.start[0].device) if is_local else {}

        def end(done: LocalEnd) -> TermReply:
            if done.steps:
                context.memory.write(state_of(context.model))
            return NO_REPLY

        keep = end if is_local else None
        if (is_local and not before) or context.server_round == 1:
            return TermRun(end=keep)
        teacher = FrozenModel(context.model, context.head, before)
        share = self.alpha * context.server_round / max(context.num_rounds, context.server_round)

        def loss(batch: TermBatch) -> Tensor:
            own = log_probabilities(batch.outputs)
            soft = torch.softmax(teacher.outputs(batch.inputs), -1)
            of_teacher = -(soft * own).sum(-1).mean()
            return share * (of_teacher - batch.task.mean_loss(batch.outputs, batch.labels))

        return TermRun(loss=loss, end=keep)
