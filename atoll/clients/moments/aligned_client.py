"""Client of an alignment strategy: answers to queries for moments, and training with cotangents."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from atoll.clients.models.head import SplitModel
from atoll.clients.moments.alignment_objective import AlignmentObjective, reply_weight
from atoll.clients.moments.domain_examples import DomainExamples
from atoll.clients.moments.example_passes import BATCH, Passes
from atoll.clients.moments.measure import measure
from atoll.clients.moments.moment_messages import DomainSums, MomentsQuery, TrainingTerms
from atoll.clients.settings import ClientSettings
from atoll.clients.training.gradients import BatchLoss, Objective, full_gradient, losses_in_batches
from atoll.clients.training.local_training import TrainingResult, mean_objective, train
from atoll.clients.training.mixup_objective import mixup_objective
from atoll.errors import EngineError
from atoll.randomness import derive_seed, seed_everything


@dataclass(frozen=True)
class AlignedResult:
    """Result of a client's training in alignment.

    Attributes
    ----------
    training : TrainingResult
        Its training; of no step, where the gradient alone was asked for.
    gradient : list[Tensor] or None
        By each trainable parameter, where it was asked for.
    metrics : dict[str, float]
        What the strategy asked for: ``weight``, what the reply counts for in the mean; ``drift``
        and ``loss_after``.
    """

    training: TrainingResult
    gradient: list[Tensor] | None
    metrics: dict[str, float]


class AlignedClient:
    """Measures and trains a model at the broadcast parameters.

    Parameters
    ----------
    model : SplitModel
        Its parameters are the broadcast ones whenever a method is called.
    settings : ClientSettings
        ``[client]``.
    """

    def __init__(self, model: SplitModel, settings: ClientSettings) -> None:
        self._model = model
        self._settings = settings
        self._passes = Passes(model, settings.batch_size)

    def measure(self, examples: DomainExamples, query: MomentsQuery) -> DomainSums:
        """Answer a query."""
        self._model.model.train()
        return measure(self._model, examples, query, self._passes)

    def train(
        self,
        examples: DomainExamples,
        terms: TrainingTerms,
        *,
        learning_rate: float,
        seed: int,
        proximal_mu: float | None,
    ) -> AlignedResult:
        """Train in place, or only compute the gradient.

        Parameters
        ----------
        examples : DomainExamples
            The client's.
        terms : TrainingTerms
            From the strategy.
        learning_rate, seed, proximal_mu
            As for :func:`~atoll.clients.training.local_training.train`.
        """
        self._model.model.train()
        objective = self._objective(examples, terms, seed)
        metrics = {"weight": reply_weight(terms, examples)}
        gradient, loss = None, 0.0
        if terms.replies_gradient or (terms.reports_drift and not self._is_one_step(examples)):
            losses = self._losses(objective, examples)
            with self._buffers_kept():
                gradient, loss = full_gradient(losses, self._model.parameters, len(examples))
        if terms.replies_gradient:
            _check_finite(gradient or [], terms, "gradient")
            return AlignedResult(TrainingResult(loss, len(examples), 0), gradient, metrics)
        if gradient is not None:
            # Measuring drift must not change what training draws.
            seed_everything(seed)
        result = train(
            self._model.model,
            examples.images,
            examples.labels,
            self._settings,
            learning_rate=learning_rate,
            generator=torch.Generator().manual_seed(seed),
            proximal_mu=proximal_mu,
            objective=objective,
            reference=gradient,
        )
        _check_finite(self._model.parameters, terms, "trained model")
        if terms.reports_drift:
            metrics["drift"] = result.drift or 0.0
        if terms.reports_loss_after:
            with self._buffers_kept():
                metrics["loss_after"] = self._mean_loss(examples)
        return AlignedResult(result, None, metrics)

    @contextmanager
    def _buffers_kept(self) -> Iterator[None]:
        """Undo what passes that only measure do to BatchNorm's statistics."""
        buffers = list(self._model.model.buffers())
        before = [buffer.clone() for buffer in buffers]
        yield
        for buffer, values in zip(buffers, before, strict=True):
            buffer.copy_(values)

    def _losses(self, objective: Objective, examples: DomainExamples) -> Iterator[BatchLoss]:
        """Yield the objective on all examples, batch by batch."""
        if isinstance(objective, AlignmentObjective) and (
            objective.needs_outputs or self._passes.holds(examples)
        ):
            for part, outputs in self._passes.take(examples):
                yield *objective.of_outputs(part, outputs), len(outputs)
            return
        batch_size = max(self._settings.batch_size, BATCH)
        yield from losses_in_batches(objective, len(examples), batch_size)

    def _mean_loss(self, examples: DomainExamples) -> float:
        with torch.no_grad():
            losses = [
                self._model.loss.losses(self._model.model(images), labels).sum()
                for images, labels in zip(
                    torch.split(examples.images, self._settings.batch_size),
                    torch.split(examples.labels, self._settings.batch_size),
                    strict=True,
                )
            ]
        return float(torch.stack(losses).sum()) / max(1, len(examples))

    def _objective(self, examples: DomainExamples, terms: TrainingTerms, seed: int) -> Objective:
        if terms.is_plain:
            model = self._model
            return mean_objective(
                model.model, examples.images, examples.labels, model.loss.mean_loss
            )
        if terms.mixup is None:
            return AlignmentObjective(self._model, examples, terms, self._passes)
        return mixup_objective(
            self._model.model,
            examples.images,
            examples.labels,
            terms.mixup,
            derive_seed(seed, "mixup"),
            self._example_factors(examples, terms),
            self._model.loss.losses,
        )

    def _example_factors(self, examples: DomainExamples, terms: TrainingTerms) -> Tensor:
        by_domain = torch.tensor([terms.loss_weights[name] for name in examples.names])
        factor = terms.scale * len(examples) / max(reply_weight(terms, examples), 1e-30)
        return (by_domain.to(examples.images) * factor)[examples.domains]

    def _is_one_step(self, examples: DomainExamples) -> bool:
        """Tell whether training is one step on all examples, which cannot leave the gradient."""
        settings = self._settings
        steps = settings.steps if settings.steps is not None else settings.epochs or 1
        return steps == 1 and settings.batch_size >= len(examples)


def _check_finite(values: Sequence[Tensor], terms: TrainingTerms, what: str) -> None:
    """Refuse values that overflowed, where it may have been the penalty's doing, and say so.

    Raises
    ------
    EngineError
        With the sizes of what the penalty put into the loss: it makes these large.
    """
    has_penalty = bool(terms.terms) or terms.loss_weights != terms.weights
    if not has_penalty or all(bool(v.isfinite().all()) for v in values):
        return
    largest = {"loss": max(map(abs, terms.loss_weights.values()), default=0.0)}
    for term in terms.terms:
        sizes = [float(c.abs().max()) for c in term.cotangents.values() if c.numel()]
        largest[term.statistic.name] = max(sizes, default=0.0)
    said = ", ".join(f"{size:.1e} of {name}" for name, size in largest.items())
    raise EngineError(
        f"the {what} is not finite, and the strategy's weights in its loss are up to {said}; "
        "smaller ones (strategy.penalty_weight) or a smaller learning rate may keep it so"
    )
