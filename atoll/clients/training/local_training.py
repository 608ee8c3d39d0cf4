"""Local training of a client: from the global model, on its own examples.

This is the engine's hot path: no data loader, no optimiser object with hooks, no value read back
from a tensor before the end.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from atoll.clients.data.client_inputs import ClientInputs
from atoll.clients.settings import ClientSettings
from atoll.clients.tasks.losses import losses_of, mean_loss
from atoll.clients.tasks.task import Task
from atoll.clients.tasks.user_functions import LOSS, find_function, values_of
from atoll.clients.training.gradients import Objective, gradients_of
from atoll.clients.training.objective.client_objective import ClientObjective
from atoll.clients.training.objective.term import NO_REPLY, TermReply
from atoll.clients.training.optimizers import local_optimizer
from atoll.clients.training.step_mods import LocalStep, StepGradient, StepMod, active_step_mods


@dataclass(frozen=True)
class TrainingResult:
    """Result of a client's training.

    Attributes
    ----------
    loss : float
        The mean loss over the examples of all steps, each before its step.
    examples : int
        The client's examples.
    steps : int
        Optimiser steps taken.
    drift : float or None
        If a reference gradient was given: ||mean of the steps' gradients - reference|| /
        ||reference||.
    extra : TermReply
        What the terms of the objective add to the client's reply.

    Examples
    --------
    >>> import torch
    >>> from torch import nn
    >>> from atoll.clients import ClientSettings, train
    >>> images, labels = torch.zeros(8, 1, 4, 4), torch.arange(8) % 2
    >>> model = nn.Sequential(nn.Flatten(), nn.Linear(16, 2, bias=False))
    >>> generator = torch.Generator().manual_seed(0)
    >>> settings = ClientSettings(batch_size=3)
    >>> result = train(model, images, labels, settings, learning_rate=0.1, generator=generator)
    >>> result.steps, result.examples, round(result.loss, 4)  # log 2: black images tell nothing
    (3, 8, 0.6931)
    """

    loss: float
    examples: int
    steps: int
    drift: float | None = None
    extra: TermReply = NO_REPLY


def batches(count: int, settings: ClientSettings, generator: torch.Generator) -> Iterator[Tensor]:
    """Yield the indices of each step's examples; none if there are no examples.

    Every pass is shuffled; its last batch is short where ``batch_size`` does not divide.
    """
    if count == 0:
        return
    steps = settings.steps
    passes = (settings.epochs or 1) if steps is None else None
    done_passes = done_steps = 0
    while passes is None or done_passes < passes:
        order = torch.randperm(count, generator=generator)
        done_passes += 1
        for start in range(0, count, settings.batch_size):
            if steps is not None and done_steps == steps:
                return
            yield order[start : start + settings.batch_size]
            done_steps += 1


def train(
    model: nn.Module,
    inputs: ClientInputs,
    labels: Tensor,
    settings: ClientSettings,
    *,
    learning_rate: float,
    generator: torch.Generator,
    task: Task | None = None,
    proximal_mu: float | None = None,
    objective: Objective | None = None,
    reference: Sequence[Tensor] | None = None,
    terms: ClientObjective | None = None,
    kept: Tensor | None = None,
) -> TrainingResult:
    """Train ``model`` in place on one client's examples.

    Parameters
    ----------
    model : nn.Module
        Holds the global parameters; holds the client's afterwards.
    inputs : ClientInputs
        Shape (n, ...), n >= 0; a client without examples takes no step. A tensor, or what reads
        them batch by batch.
    labels : Tensor
        What is to be predicted, shape (n, ...).
    settings : ClientSettings
        ``[client]``.
    learning_rate : float
        The round's learning rate.
    generator : torch.Generator
        Shuffles the examples.
    task : Task, optional
        Whose loss is descended; by default a classification's cross-entropy.
    proximal_mu : float, optional
        The weight of FedProx's term mu/2 ||w - w_global||^2 (Li et al., 2020); by default that
        of the settings.
    objective : Objective, optional
        The loss of a batch; by default that of the settings, else the task's mean loss.
    reference : Sequence[Tensor], optional
        The objective's gradient at the global parameters, to measure how far the steps left it.
    terms : ClientObjective, optional
        What is minimised beside that loss.
    kept : Tensor, optional
        int64, shape (k,): the examples that are used; by default all.

    Examples
    --------
    >>> import torch
    >>> from torch import nn
    >>> from atoll.clients import ClientSettings, train
    >>> images, labels = torch.rand(8, 1, 4, 4), torch.arange(8) % 2
    >>> model = nn.Sequential(nn.Flatten(), nn.Linear(16, 2))
    >>> settings = ClientSettings(batch_size=4, epochs=2)
    >>> generator = torch.Generator().manual_seed(0)
    >>> train(model, images, labels, settings, learning_rate=0.1, generator=generator).steps
    4
    """
    model.train()
    parameters = [p for p in model.parameters() if p.requires_grad]
    update = UpdateRule(parameters, settings, learning_rate, proximal_mu, terms=terms)
    total = torch.zeros((), device=inputs.device)
    if objective is None:
        mean_of = mean_loss_of(settings, task)
        if terms is None or terms.is_linear:
            objective = mean_objective(model, inputs, labels, mean_of)
        else:
            objective = terms.objective(model, inputs, labels, mean_of)
    mean_gradient = [torch.zeros_like(gradient) for gradient in reference or ()]
    mods = active_step_mods()
    gradients: list[Tensor] | tuple[Tensor, ...]
    examples_seen = steps = 0
    count = len(labels) if kept is None else len(kept)
    for drawn in batches(count, settings, generator):
        chosen = drawn if kept is None else kept[drawn]
        if mods:
            loss_of_batch = partial(objective, chosen)
            step = LocalStep(
                model,
                parameters,
                inputs[chosen],
                labels[chosen],
                count,
                loss_of_batch,
                losses_of if task is None else task.losses,
            )
            gradients, cross_entropy = _gradient_through(mods, step)
        else:
            loss, cross_entropy = objective(chosen)
            gradients = gradients_of(loss, parameters)
            if terms is not None and terms.changes_gradient:
                again = partial(_gradient_again, objective, chosen, parameters)
                gradients = terms.gradient(gradients, parameters, again)
        with torch.no_grad():
            steps += 1
            if reference:
                torch._foreach_lerp_(mean_gradient, gradients, 1 / steps)
            update.apply(gradients)
            total += cross_entropy.detach() * len(chosen)
        examples_seen += len(chosen)
    mean = float(total) / max(1, examples_seen)
    drift = _relative_distance(mean_gradient, reference) if reference and steps else None
    extra = NO_REPLY if terms is None else terms.end(parameters, steps, count)
    return TrainingResult(mean, count, steps, drift, extra)


def _gradient_again(
    objective: Objective, chosen: Tensor, parameters: Sequence[Tensor]
) -> tuple[Tensor, ...]:
    """Return the gradient of a batch's loss at the parameters as they are now."""
    return gradients_of(objective(chosen)[0], parameters)


def _gradient_through(mods: Sequence[StepMod], step: LocalStep) -> tuple[list[Tensor], Tensor]:
    """Return a step's gradient as the mods leave it, and the mean cross-entropy."""
    cross_entropies: list[Tensor] = []

    def plain(step: LocalStep) -> list[Tensor]:
        loss, cross_entropy = step.objective()
        cross_entropies.append(cross_entropy)
        return list(gradients_of(loss, step.parameters))

    compute: StepGradient = plain
    for mod in reversed(mods):
        compute = partial(_through, mod, compute)
    return compute(step), cross_entropies[0]


def _through(mod: StepMod, compute: StepGradient, step: LocalStep) -> list[Tensor]:
    return mod(step, compute)


def mean_objective(
    model: nn.Module,
    inputs: ClientInputs,
    labels: Tensor,
    mean_loss: Callable[[Tensor, Tensor], Tensor] = mean_loss,
) -> Objective:
    """Return a mean loss as an objective: of outputs and labels, by default the cross-entropy."""

    def objective(chosen: Tensor) -> tuple[Tensor, Tensor]:
        loss = mean_loss(model(inputs[chosen]), labels[chosen])
        return loss, loss

    return objective


def mean_loss_of(settings: ClientSettings, task: Task | None) -> Callable[[Tensor, Tensor], Tensor]:
    """Return the mean loss that a client descends: its own, the task's, or the cross-entropy."""
    loss = settings.loss
    if loss is None:
        return mean_loss if task is None else task.mean_loss
    function = find_function(loss, LOSS)

    def own_mean(outputs: Tensor, labels: Tensor) -> Tensor:
        return values_of(loss, LOSS, outputs, labels, function).mean()

    return own_mean


def _relative_distance(values: Sequence[Tensor], reference: Sequence[Tensor]) -> float:
    """Return ||values - reference|| / ||reference||; 0 if the reference is 0."""
    difference = torch._foreach_sub(list(values), list(reference))
    distance = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(difference)))
    norm = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(list(reference))))
    return float(distance / norm) if float(norm) > 0.0 else 0.0


class GradientTerms(Protocol):
    """Terms by what they add to every gradient: ``offset`` + ``pull`` (w - w_start)."""

    @property
    def offset(self) -> Sequence[Tensor] | None:
        """By parameter; None for zero."""

    @property
    def pull(self) -> float:
        """The weight of the distance to the start."""

    @property
    def start(self) -> Sequence[Tensor] | None:
        """Copies of the parameters at the start, which do not change; None where none are kept."""


class UpdateRule:
    """FedProx's term, clipping and the optimiser's step, on any list of parameters.

    Parameters
    ----------
    parameters : Sequence[Tensor]
        Changed in place by :meth:`apply`; their values now are the global ones.
    settings, learning_rate, proximal_mu
        As for :func:`train`.
    per_client : bool
        Whether the first dimension of every parameter is a stack of clients, each with a norm of
        its own to clip.
    terms : GradientTerms, optional
        What is added to the gradients.

    Attributes
    ----------
    parameters : list[Tensor]
        The parameters, detached: the same memory.
    """

    def __init__(
        self,
        parameters: Sequence[Tensor],
        settings: ClientSettings,
        learning_rate: float,
        proximal_mu: float | None = None,
        *,
        per_client: bool = False,
        terms: GradientTerms | None = None,
    ) -> None:
        self.parameters = [parameter.detach() for parameter in parameters]
        self._mu = settings.proximal_mu if proximal_mu is None else proximal_mu
        self._offset: list[Tensor] | None = None
        if terms is not None:
            self._offset = None if terms.offset is None else list(terms.offset)
            self._mu += terms.pull
        self._clip = settings.gradient_clip
        self._per_client = per_client
        self._optimizer = local_optimizer(settings, learning_rate)
        self._start: list[Tensor] = []
        if self._mu:
            start = None if terms is None else terms.start
            self._start = [p.clone() for p in self.parameters] if start is None else list(start)

    def state_dict(self) -> dict[str, Any]:
        """Return the optimiser's state."""
        return self._optimizer.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from an optimiser's state."""
        self._optimizer.load_state_dict(state)

    def keep_first(self, count: int) -> None:
        """From now on, change the first ``count`` of the stacked clients only."""
        self.parameters = [parameter[:count] for parameter in self.parameters]
        self._start = [start[:count] for start in self._start]
        if self._offset is not None:
            self._offset = [offset[:count] for offset in self._offset]
        self._optimizer.keep_first(count)

    def apply(self, gradients: Sequence[Tensor]) -> None:
        """Change the parameters by one step."""
        changes = list(gradients)
        if self._offset is not None:
            changes = list(torch._foreach_add(changes, self._offset))
        if self._mu:
            drift = torch._foreach_sub(self.parameters, self._start)
            if self._offset is None:
                changes = list(torch._foreach_add(changes, drift, alpha=self._mu))
            else:
                # With an offset they are this step's own, and no longer the gradients.
                torch._foreach_add_(changes, drift, alpha=self._mu)
        if self._clip is not None:
            changes = self._clipped(changes, self._clip)
        self._optimizer.step(self.parameters, changes)

    def _clipped(self, gradients: list[Tensor], limit: float) -> list[Tensor]:
        if not self._per_client:
            norm = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(gradients)))
            return list(torch._foreach_mul(gradients, torch.clamp(limit / (norm + 1e-6), max=1.0)))
        squares = [gradient.reshape(len(gradient), -1).square().sum(1) for gradient in gradients]
        norms = torch.stack(squares).sum(0).sqrt()
        factors = torch.clamp(limit / (norms + 1e-6), max=1.0)
        return [g * factors.view(-1, *[1] * (g.dim() - 1)) for g in gradients]
