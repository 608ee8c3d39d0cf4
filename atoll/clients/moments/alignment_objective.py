"""Objective of a client in alignment: weighted loss plus <cotangent, moment> terms."""

from __future__ import annotations

import torch
from torch import Tensor

from atoll.clients.models.head import SplitModel
from atoll.clients.models.head_outputs import HeadOutputs
from atoll.clients.moments.domain_examples import DomainExamples
from atoll.clients.moments.example_passes import Passes
from atoll.clients.moments.measure import check_head, sums_of
from atoll.clients.moments.moment_messages import Term, TrainingTerms
from atoll.clients.moments.statistic import DomainContext
from atoll.user_code.error_places import user_code


def reply_weight(terms: TrainingTerms, examples: DomainExamples) -> float:
    """Return the weight of a client's reply in the mean: its examples, weighted."""
    return sum(terms.weights[name] * count for name, count in examples.counts.items())


class AlignmentObjective:
    """The mean over a batch of weight * loss + <cotangent, phi>, by each one's domain.

    The weighted mean of the clients' objectives is the centralised objective (to first order in
    the moments, at the broadcast parameters), however domains lie on clients.

    Parameters
    ----------
    model : SplitModel
        At the broadcast parameters.
    examples : DomainExamples
        The client's.
    terms : TrainingTerms
        From the strategy.
    passes : Passes
        Of this model.
    """

    def __init__(
        self, model: SplitModel, examples: DomainExamples, terms: TrainingTerms, passes: Passes
    ) -> None:
        check_head(model, [term.statistic for term in terms.terms])
        self._model = model
        self._examples = examples
        self._terms = terms
        self._contexts = {
            index: {
                name: DomainContext(name, term.vectors.get(name), examples.counts[name])
                for name in examples.names
            }
            for index, term in enumerate(terms.terms)
        }
        weight = reply_weight(terms, examples)
        # The mean of replies multiplies by the reply's weight and divides by all of them.
        self._factor = terms.scale * len(examples) / weight if weight else 0.0
        factors = [terms.loss_weights[name] * self._factor for name in examples.names]
        self._loss_factors = torch.tensor(factors, dtype=torch.float64)
        self._anchors = self._moments_now(passes)

    @property
    def needs_outputs(self) -> bool:
        """Whether the loss depends on what the head saw, beside what it said."""
        return bool(self._terms.terms)

    def _moments_now(self, passes: Passes) -> dict[tuple[int, str], Tensor]:
        """Return the client's own moments at the broadcast parameters, where they are needed."""
        if not any(term.curvatures for term in self._terms.terms):
            return {}
        statistics = [term.statistic for term in self._terms.terms]
        needs_graph = any(statistic.needs_graph for statistic in statistics)
        batches = passes.read(self._examples, graph=needs_graph, keep_graph=False)
        sums = sums_of(self._model, self._examples, statistics, self._contexts, batches)
        counts = self._examples.counts
        return {(index, name): total / counts[name] for (index, name), total in sums.items()}

    def __call__(self, chosen: Tensor) -> tuple[Tensor, Tensor]:
        """Return the loss of a batch, and its plain mean."""
        examples = self._examples
        if self.needs_outputs:
            return self.of_outputs(chosen, examples.outputs(self._model, chosen))
        # Without terms the model need not have a head.
        return self._of_losses(
            chosen,
            self._model.loss.losses(
                self._model.model(examples.images[chosen]), examples.labels[chosen]
            ),
        )

    def of_outputs(self, chosen: Tensor | slice, outputs: HeadOutputs) -> tuple[Tensor, Tensor]:
        """Return the same for a batch whose outputs are there already."""
        loss, plain = self._of_losses(chosen, outputs.losses)
        if not self.needs_outputs:
            return loss, plain
        for name, part in self._examples.by_domain(outputs, chosen):
            loss = loss + self._of_domain(name, part) * (self._factor / len(outputs))
        return loss, plain

    def _of_losses(self, chosen: Tensor | slice, losses: Tensor) -> tuple[Tensor, Tensor]:
        """Return the weighted mean of the examples' losses and the norm, and the plain mean."""
        factors = self._loss_factors.to(losses)[self._examples.domains[chosen]]
        loss = (factors * losses).mean()
        if self._terms.l2:
            squares = torch.stack([p.square().sum() for p in self._model.parameters])
            loss = loss + self._terms.scale * self._terms.l2 * squares.sum()
        return loss, losses.detach().mean()

    def _of_domain(self, name: str, part: HeadOutputs) -> Tensor:
        """Return the sum over the domain's examples of the terms."""
        total = part.logits.new_zeros(())
        for index, term in enumerate(self._terms.terms):
            context = self._contexts[index][name]
            cotangent = term.cotangents[name].to(part.logits)
            with user_code(f"the statistic {term.statistic.name}"):
                total = total + term.statistic.inner(part, cotangent, context)
                curvature = term.curvatures.get(name, 0.0)
                if curvature:
                    total = total + len(part) * self._quadratic(index, term, curvature, name, part)
        return total

    def _quadratic(
        self, index: int, term: Term, curvature: float, name: str, part: HeadOutputs
    ) -> Tensor:
        sizes = self._model.sizes(part)
        context = self._contexts[index][name]
        total = term.statistic.total(part, sizes, context, create_graph=True)
        change = total / len(part) - self._anchors[index, name]
        return curvature / 2 * change.square().sum()
