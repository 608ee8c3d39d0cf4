"""One client's objective in one round: the task's loss and its terms, as local training asks."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from atoll.clients.data.client_inputs import ClientInputs
from atoll.clients.training.objective.term import (
    LocalEnd,
    ObjectiveTerm,
    TermBatch,
    TermContext,
    TermReply,
    TermRun,
)

# Between a term's name and that of an array, in what is sent beside a model.
SEPARATOR = ":"
MeanLoss = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class NamedTerm:
    """A term with the name that an experiment or a strategy gives it."""

    name: str
    term: ObjectiveTerm


class ClientObjective:
    """The terms of a client's objective in a round.

    Parameters
    ----------
    terms : Sequence[NamedTerm]
        The terms; none has weight 0.
    contexts : Sequence[TermContext]
        One a term.

    Attributes
    ----------
    offset : list[Tensor] or None
        The sum of the terms' offsets.
    pull : float
        The sum of the terms' pulls.
    start : Sequence[Tensor]
        The global parameters, copies.
    is_linear : bool
        Whether they act on gradients by these alone.
    changes_gradient : bool
        Whether a term asks for a second gradient.
    """

    pull: float
    offset: list[Tensor] | None

    def __init__(self, terms: Sequence[NamedTerm], contexts: Sequence[TermContext]) -> None:
        self._names = [named.name for named in terms]
        self._runs = [
            _weighted(named.term.begin(context), named.term.weight)
            for named, context in zip(terms, contexts, strict=True)
        ]
        self._context = contexts[0]
        self.start = contexts[0].start
        self._received = [context.received for context in contexts]
        self.pull = sum(run.pull for run in self._runs)
        offsets = [run.offset for run in self._runs if run.offset is not None]
        self.offset = _sum_of(offsets)
        self.is_linear = all(run.is_linear for run in self._runs)
        self.changes_gradient = any(run.gradient is not None for run in self._runs)

    def objective(
        self, model: nn.Module, inputs: ClientInputs, labels: Tensor, mean_loss: MeanLoss
    ) -> Callable[[Tensor], tuple[Tensor, Tensor]]:
        """Return the loss of a batch with the terms' losses, and without.

        Parameters
        ----------
        model : nn.Module
            The client's.
        inputs, labels : ClientInputs, Tensor
            Its examples, shape (n, ...).
        mean_loss : callable
            The mean loss of outputs and labels.
        """
        losses = [run.loss for run in self._runs if run.loss is not None]
        needs_features = any(run.needs_features for run in self._runs)
        changes = [run.change_features for run in self._runs if run.change_features is not None]
        context, task = self._context, self._context.task

        def objective(chosen: Tensor) -> tuple[Tensor, Tensor]:
            given, wanted = inputs[chosen], labels[chosen]
            features = None
            if needs_features or changes:
                with _watched(context.head, changes) as seen:
                    outputs = model(given)
                features = _only(seen)
            else:
                outputs = model(given)
            plain = mean_loss(outputs, wanted)
            batch = TermBatch(chosen, given, wanted, outputs, task, features)
            loss = plain
            for of_batch in losses:
                loss = loss + of_batch(batch)
            return loss, plain

        return objective

    def gradient(
        self, first: Sequence[Tensor], parameters: Sequence[Tensor], compute: Callable[[], Any]
    ) -> list[Tensor]:
        """Return a step's gradient as the terms leave it.

        Parameters
        ----------
        first : Sequence[Tensor]
            The gradient at the parameters.
        parameters : Sequence[Tensor]
            Moved and moved back, to the same bits.
        compute : callable
            Returns the batch's gradient at the parameters as they are.
        """
        kept = [parameter.detach().clone() for parameter in parameters]

        def gradient_at(change: Sequence[Tensor]) -> list[Tensor]:
            with torch.no_grad():
                torch._foreach_add_(list(parameters), list(change))
            try:
                return list(compute())
            finally:
                with torch.no_grad():
                    torch._foreach_copy_(list(parameters), kept)

        found = list(first)
        for run in self._runs:
            if run.gradient is not None:
                found = run.gradient(found, gradient_at)
        return found

    def end(self, parameters: Sequence[Tensor], steps: int, examples: int) -> TermReply:
        """End the round: terms keep their state, and add to the reply.

        Parameters
        ----------
        parameters : Sequence[Tensor]
            The client's, trained.
        steps, examples : int
            Optimiser steps taken, and the client's examples.

        Returns
        -------
        TermReply
            Arrays have the names ``TERM:NAME``.
        """
        context = self._context
        end = LocalEnd(
            context.start,
            [parameter.detach() for parameter in parameters],
            steps,
            examples,
            context.learning_rate,
        )
        arrays: dict[str, Tensor] = {}
        metrics: dict[str, float] = {}
        for name, run, received in zip(self._names, self._runs, self._received, strict=True):
            if run.end is None:
                continue
            reply = run.end(end)
            metrics.update(reply.metrics)
            for key, sent in received.items():
                value = reply.arrays.get(key)
                of_key = torch.zeros_like(sent) if value is None else value
                arrays[f"{name}{SEPARATOR}{key}"] = of_key
        return TermReply(arrays, metrics)


@dataclass(frozen=True)
class StackedTerms:
    """Linear terms of several clients whose parameters are stacked.

    Attributes
    ----------
    offset : list[Tensor] or None
        By parameter, shape (clients, *shape).
    pull : float
        The same for all clients.
    start : Sequence[Tensor] or None
        None: the stack's own copies are taken.
    """

    offset: list[Tensor] | None
    pull: float
    start: Sequence[Tensor] | None = None


def stacked_terms(clients: Sequence[ClientObjective]) -> StackedTerms:
    """Return the linear terms of clients, in the order of the stack."""
    offsets = [client.offset for client in clients if client.offset is not None]
    stacked = [torch.stack(list(parts)) for parts in zip(*offsets, strict=True)]
    return StackedTerms(stacked or None, clients[0].pull)


def _weighted(run: TermRun, weight: float) -> TermRun:
    """Return a run whose additions are multiplied by the term's weight."""
    if weight == 1.0:
        return run
    offset = None if run.offset is None else torch._foreach_mul(list(run.offset), weight)
    loss = run.loss
    scaled = None if loss is None else lambda batch: weight * loss(batch)
    return replace(run, offset=offset, pull=weight * run.pull, loss=scaled)


def _sum_of(offsets: Sequence[Sequence[Tensor]]) -> list[Tensor] | None:
    total: list[Tensor] | None = None
    for offset in offsets:
        total = list(offset) if total is None else list(torch._foreach_add(total, list(offset)))
    return total


@contextmanager
def _watched(
    head: nn.Module | None, changes: Sequence[Callable[[Tensor], Tensor]]
) -> Iterator[list[Tensor]]:
    """Within this context the head's inputs are changed, and kept in the list."""
    if head is None:
        raise ValueError("the model has no head whose inputs a term could see")
    seen: list[Tensor] = []

    def watch(module: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        features, *others = inputs
        for change in changes:
            features = change(features)
        seen.append(features)
        return (features, *others)

    handle = head.register_forward_pre_hook(watch)
    try:
        yield seen
    finally:
        handle.remove()


def _only(seen: Sequence[Tensor]) -> Tensor:
    if len(seen) != 1:
        raise ValueError(f"the model's head was called {len(seen)} times a batch, expected once")
    return seen[0]
