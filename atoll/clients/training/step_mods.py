"""Mods of local training: they act on the gradient of a step as Flower's mods on a message.

A Flower mod sees a client's message before and after its training. One that must act inside (on
each step's gradient, as DP-SGD does) calls the app within :func:`on_steps`; our training asks
:func:`active_step_mods`. A user's ClientApp can do the same.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass

from torch import Tensor, nn

from atoll.clients.tasks.losses import losses_of


@dataclass(frozen=True)
class LocalStep:
    """One step of local training.

    Attributes
    ----------
    model : nn.Module
        At the parameters before the step, in training mode.
    parameters : Sequence[Tensor]
        The trainable ones, in the order of ``model.parameters()``.
    images, labels : Tensor
        The step's batch: what the model is given, shape (n, ...), and the labels, shape (n, ...).
    examples : int
        Number of the client's examples.
    objective : Callable
        Computes the batch's loss to descend and its mean cross-entropy, scalars in the graph of
        the parameters.
    losses_of : Callable
        Each example's loss, shape (n,), of a model's outputs and labels.

    Examples
    --------
    >>> import torch
    >>> from atoll.clients import LocalStep
    >>> model = torch.nn.Linear(2, 2)
    >>> images, labels = torch.eye(2), torch.tensor([0, 1])
    >>> def objective():
    ...     loss = torch.nn.functional.cross_entropy(model(images), labels)
    ...     return loss, loss.detach()
    >>> step = LocalStep(model, list(model.parameters()), images, labels, 2, objective)
    >>> len(step.parameters), step.objective()[0].shape
    (2, torch.Size([]))
    """

    model: nn.Module
    parameters: Sequence[Tensor]
    images: Tensor
    labels: Tensor
    examples: int
    objective: Callable[[], tuple[Tensor, Tensor]]
    losses_of: Callable[[Tensor, Tensor], Tensor] = losses_of


StepGradient = Callable[[LocalStep], list[Tensor]]
# Takes the step and what computes its gradient without this mod; returns the gradient with it.
StepMod = Callable[[LocalStep, StepGradient], list[Tensor]]


class ActiveMod:
    """A mod of steps that is in force.

    Attributes
    ----------
    mod : StepMod
        The mod.
    was_asked_for : bool
        Whether some training has asked for it.
    """

    def __init__(self, mod: StepMod) -> None:
        self.mod = mod
        self.was_asked_for = False


_active: ContextVar[tuple[ActiveMod, ...]] = ContextVar("mods of local steps", default=())


@contextmanager
def on_steps(mod: StepMod) -> Iterator[ActiveMod]:
    """Within this context, training in this thread computes gradients through ``mod``."""
    entry = ActiveMod(mod)
    token = _active.set((*_active.get(), entry))
    try:
        yield entry
    finally:
        _active.reset(token)


def active_step_mods() -> tuple[StepMod, ...]:
    """Return the mods of steps that are in force, the outermost first."""
    entries = _active.get()
    for entry in entries:
        entry.was_asked_for = True
    return tuple(entry.mod for entry in entries)


@contextmanager
def without_step_mods() -> Iterator[None]:
    """Within this context, training in this thread is without mods: of models that are not sent."""
    token = _active.set(())
    try:
        yield
    finally:
        _active.reset(token)
