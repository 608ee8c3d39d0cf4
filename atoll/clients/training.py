"""Local training: what a client does with the global model and its own examples.

This is the engine's hot path: no data loader, no optimiser object with hooks, no value read back
from a tensor before the end.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from atoll.clients.optimizers import local_optimizer
from atoll.clients.settings import ClientSettings


@dataclass(frozen=True)
class TrainingResult:
    """What came of a client's training.

    Attributes
    ----------
    loss : float
        The mean loss over the examples of all steps, each before its step.
    examples : int
        The client's examples.
    steps : int
        Optimiser steps taken.
    """

    loss: float
    examples: int
    steps: int


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
    images: Tensor,
    labels: Tensor,
    settings: ClientSettings,
    *,
    learning_rate: float,
    generator: torch.Generator,
    proximal_mu: float | None = None,
) -> TrainingResult:
    """Train ``model`` in place on one client's examples.

    Parameters
    ----------
    model : nn.Module
        Holds the global parameters; holds the client's afterwards.
    images : Tensor
        float32, shape (n, channels, height, width), n >= 0; a client without examples takes
        no step.
    labels : Tensor
        int64, shape (n,).
    settings : ClientSettings
        ``[client]``.
    learning_rate : float
        The round's learning rate.
    generator : torch.Generator
        Shuffles the examples.
    proximal_mu : float, optional
        The weight of FedProx's term mu/2 ||w - w_global||^2 (Li et al., 2020); by default that
        of the settings.
    """
    model.train()
    parameters = [p for p in model.parameters() if p.requires_grad]
    update = UpdateRule(parameters, settings, learning_rate, proximal_mu)
    total = torch.zeros((), device=images.device)
    examples_seen = steps = 0
    for chosen in batches(len(labels), settings, generator):
        loss = F.cross_entropy(model(images[chosen]), labels[chosen])
        gradients = torch.autograd.grad(loss, parameters, allow_unused=True, materialize_grads=True)
        with torch.no_grad():
            update.apply(gradients)
            total += loss.detach() * len(chosen)
        examples_seen += len(chosen)
        steps += 1
    return TrainingResult(float(total) / max(1, examples_seen), len(labels), steps)


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
    ) -> None:
        self.parameters = [parameter.detach() for parameter in parameters]
        self._mu = settings.proximal_mu if proximal_mu is None else proximal_mu
        self._clip = settings.gradient_clip
        self._per_client = per_client
        self._optimizer = local_optimizer(settings, learning_rate)
        self._start = [p.clone() for p in self.parameters] if self._mu else []

    def keep_first(self, count: int) -> None:
        """From now on, change the first ``count`` of the stacked clients only."""
        self.parameters = [parameter[:count] for parameter in self.parameters]
        self._start = [start[:count] for start in self._start]
        self._optimizer.keep_first(count)

    def apply(self, gradients: Sequence[Tensor]) -> None:
        """Change the parameters by one step."""
        changes = list(gradients)
        if self._mu:
            drift = torch._foreach_sub(self.parameters, self._start)
            changes = list(torch._foreach_add(changes, drift, alpha=self._mu))
        if self._clip is not None:
            changes = self._clipped(changes, self._clip)
        self._optimizer.step(self.parameters, changes)

    def _clipped(self, gradients: list[Tensor], limit: float) -> list[Tensor]:
        if not self._per_client:
            norm = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(gradients)))
            return list(torch._foreach_mul(gradients, torch.clamp(limit / (norm + 1e-6), max=1.0)))
        squares = [gradient.flatten(1).square().sum(1) for gradient in gradients]
        norms = torch.stack(squares).sum(0).sqrt()
        factors = torch.clamp(limit / (norms + 1e-6), max=1.0)
        return [g * factors.view(-1, *[1] * (g.dim() - 1)) for g in gradients]
