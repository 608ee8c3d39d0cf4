"""Terms that correct the drift of clients with different data: parts of strategies, with state."""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from torch import Tensor

from atoll.clients.ranges import Positive
from atoll.clients.settings import ClientSettings
from atoll.clients.tasks.task import Task
from atoll.clients.training.objective.term import (
    LocalEnd,
    ObjectiveTerm,
    TermContext,
    TermReply,
    TermRun,
)


class ControlVariates(ObjectiveTerm):
    """SCAFFOLD's correction of a client's steps: - c_i + c (Karimireddy et al., 2020, alg. 1).

    c comes from the server; c_i stays with the node, and its change is sent.

    Attributes
    ----------
    weight : float
        What the correction is multiplied by; 1 in the paper.
    option : int
        2: c_i becomes c_i - c + (x - y_i)/(steps lr). 1: the gradient at x over all the client's
        examples, at the price of one more pass.
    """

    of_strategy: ClassVar[str | None] = "SCAFFOLD"
    has_state: ClassVar[bool] = True
    is_linear: ClassVar[bool] = True

    option: Literal[1, 2] = 2

    def obstacle_to_vectorizing(self) -> str | None:
        """Return that option 1 computes the gradient of one client at a time."""
        return "option 1 takes a client's whole gradient" if self.option == 1 else None

    def check(self, task: Task, settings: ClientSettings) -> None:
        """Refuse optimisers whose step is not the learning rate times the gradient."""
        check_plain_sgd(settings, "SCAFFOLD")

    def begin(self, context: TermContext) -> TermRun:
        """Return the correction, and the control variate's update."""
        own = context.named(context.memory.read())
        server = context.named(context.received)
        renewed = context.full_gradient() if self.option == 1 else None

        def end(done: LocalEnd) -> TermReply:
            if not done.steps:
                change = [torch.zeros_like(c) for c in own]
            elif renewed is not None:
                change = list(torch._foreach_sub(renewed, own))
            else:
                # c_i+ - c_i = - c - (y_i - x)/(K lr).
                scale = -1.0 / (done.steps * done.learning_rate)
                change = list(torch._foreach_mul(done.moved, scale))
                torch._foreach_sub_(change, server)
            if done.steps:
                new = torch._foreach_add(own, change)
                context.memory.write(context.by_name(list(new)))
            return TermReply(context.by_name(change), {"clients": float(done.steps > 0)})

        return TermRun(offset=torch._foreach_sub(server, own), end=end)


class DynamicRegularizer(ObjectiveTerm):
    """FedDyn's regulariser -<g_i, w> + alpha/2 ||w - w_t||^2 (Acar et al., 2021, eq. 1).

    g_i stays with the node: after a round it is g_i - alpha (w_i - w_t).

    Attributes
    ----------
    weight : float
        What the regulariser is multiplied by; 1 in the paper.
    alpha : float
        The strength of the regulariser.
    """

    of_strategy: ClassVar[str | None] = "FedDyn"
    has_state: ClassVar[bool] = True
    is_linear: ClassVar[bool] = True

    alpha: Positive = 0.01

    def begin(self, context: TermContext) -> TermRun:
        """Return the regulariser, and the update of its gradient."""
        own: list[Tensor] = context.named(context.memory.read())

        def end(done: LocalEnd) -> TermReply:
            if done.steps:
                new = torch._foreach_add(own, done.moved, alpha=-self.alpha)
                context.memory.write(context.by_name(list(new)))
            return TermReply(metrics={"clients": float(done.steps > 0)})

        return TermRun(offset=torch._foreach_neg(own), pull=self.alpha, end=end)


def check_plain_sgd(settings: ClientSettings, name: str) -> None:
    """Refuse optimisers whose step is not the learning rate times the gradient.

    Raises
    ------
    ValueError
        With the setting and what was expected.
    """
    if settings.optimizer != "sgd":
        raise ValueError(
            f"{name} corrects plain gradient steps, and client.optimizer = {settings.optimizer!r} "
            "adapts them; expected 'sgd'"
        )
    if settings.momentum:
        raise ValueError(
            f"{name} corrects plain gradient steps, and client.momentum = {settings.momentum:g} "
            "adds earlier ones; expected 0"
        )
