"""A client's training on terms of an objective, and terms of a user's own."""

from __future__ import annotations

from typing import Any

import torch
from flwr.app import RecordDict
from torch import Tensor, nn

from atoll.clients.models.head import find_head
from atoll.clients.settings import ClientSettings, TermSettings
from atoll.clients.tasks.classification import classes_of
from atoll.clients.tasks.task import Task
from atoll.clients.training.local_training import TrainingResult, train
from atoll.clients.training.objective.client_objective import ClientObjective, NamedTerm
from atoll.clients.training.objective.named_terms import find_terms
from atoll.clients.training.objective.node_memory import NodeMemory
from atoll.clients.training.objective.term import TermBatch, TermContext


def squared_outputs(batch: TermBatch) -> Tensor:
    """Return the mean square of the outputs."""
    return batch.outputs.square().mean()


def no_scalar(batch: TermBatch) -> Tensor:
    """Return what no term may."""
    return batch.outputs


def halved(outputs: Tensor, labels: Tensor) -> Tensor:
    """Return half the cross-entropy of each example: a loss of a user's own."""
    return torch.nn.functional.cross_entropy(outputs, labels, reduction="none") / 2


def small_network(seed: int = 0, inputs: int = 6, classes: int = 4) -> nn.Module:
    """Return a network of two layers, whose last is its head."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Sequential(nn.Linear(inputs, 8), nn.Tanh(), nn.Linear(8, classes))


def some_examples(count: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Return inputs, shape (count, 6), and labels of four classes."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, 6, generator=generator), torch.randint(
        0, 4, (count,), generator=generator
    )


def train_with(
    model: nn.Module,
    inputs: Tensor,
    labels: Tensor,
    settings: ClientSettings,
    terms: list[NamedTerm] | None = None,
    *,
    state: RecordDict | None = None,
    task: Task | None = None,
    seed: int = 0,
    term_seed: int = 0,
    **context: Any,
) -> TrainingResult:
    """Train a model in place on the terms, by default those of the settings."""
    chosen = find_terms(settings.objective) if terms is None else terms
    named = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    contexts = [
        TermContext(
            model=model,
            names=[name for name, _ in named],
            start=[p.detach().clone() for _, p in named],
            task=task or classes_of(4),
            settings=settings,
            learning_rate=settings.learning_rate,
            inputs=inputs,
            labels=labels,
            indices=torch.arange(len(labels)),
            head=find_head(model),
            seed=term_seed,
            memory=NodeMemory(RecordDict() if state is None else state, term.name),
            **context,
        )
        for term in chosen
    ]
    return train(
        model,
        inputs,
        labels,
        settings,
        learning_rate=settings.learning_rate,
        generator=torch.Generator().manual_seed(seed),
        task=task or classes_of(4),
        terms=ClientObjective(chosen, contexts) if chosen else None,
    )


def settings_with(*terms: dict[str, Any], **keys: Any) -> ClientSettings:
    """Return client settings with terms."""
    objective = tuple(TermSettings(**term) for term in terms)
    return ClientSettings(**{"learning_rate": 0.1, "batch_size": 5, **keys}, objective=objective)
