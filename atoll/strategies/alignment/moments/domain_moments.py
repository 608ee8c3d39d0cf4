"""Moments of a round's domains, as tensors in which a penalty is written.

A moment that is asked for is a leaf of the server's graph; the penalty's gradient by it is the
cotangent that clients train on. A Hessian product H_e v_e depends on v_e too, which may itself be a
function of moments: there, one more query gives H_e times the cotangent, because H_e is symmetric.
So a penalty is exact in however many phases its function takes.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from atoll.clients.models.head import SplitModel
from atoll.clients.models.head_outputs import HeadOutputs
from atoll.clients.moments.head_statistics import HessianProduct
from atoll.clients.moments.moment_messages import Term
from atoll.clients.moments.moved_head import MovedHeadRisk
from atoll.clients.moments.statistic import Statistic
from atoll.clients.moments.statistics import Loss
from atoll.clients.tasks.output_loss import CROSS_ENTROPY
from atoll.clients.tasks.task import Task
from atoll.strategies.alignment.moments.domain_weights import DomainWeights, Weighting
from atoll.strategies.alignment.moments.example_rows import ExampleRows
from atoll.strategies.alignment.moments.local_exchange import HERE, LocalExchange
from atoll.strategies.alignment.moments.moment_exchange import Exchange
from atoll.strategies.alignment.moments.stored_moments import StoredMoments, means_of


@dataclass(frozen=True)
class _Measured:
    """One statistic over all domains: a leaf of the graph, shape (domains, ...)."""

    statistic: Statistic
    values: Tensor
    vectors: Tensor | None = None


class Domains:
    """Moments of domains for a penalty: float64, domains along the first dimension.

    Parameters
    ----------
    exchange : Exchange
        To the nodes of the round.
    counts : mapping
        By node, its examples by domain.
    weighting : "uniform" or "examples"
        Whether domains count the same or by their examples.
    stored : mapping
        Moments of domains that no node of the round holds; :meth:`remember` adds to it.

    Attributes
    ----------
    names : tuple[str, ...]
        The domains, in alphabetical order.
    counts : Tensor
        Examples, shape (n,).
    weights : Tensor
        Weight of each domain, shape (n,); the sum is 1.

    Examples
    --------
    >>> import torch
    >>> from atoll.clients import FeatureMean
    >>> from atoll.strategies import Domains
    >>> model, images, labels = torch.nn.Linear(2, 2), torch.eye(2), torch.tensor([0, 1])
    >>> domains = Domains.of_model(model, {"a": (images, labels), "b": (images + 1, labels)})
    >>> means = domains.moment(FeatureMean())
    >>> means.tolist(), domains.spread(means).item()  # a penalty: the means' squared distance
    ([[0.5, 0.5], [1.5, 1.5]], 0.5)
    """

    def __init__(
        self,
        exchange: Exchange,
        counts: Mapping[int, Mapping[str, int]],
        weighting: Weighting = "uniform",
        stored: Mapping[str, StoredMoments] | None = None,
    ) -> None:
        self._exchange = exchange
        self._held = {node: tuple(sorted(held)) for node, held in counts.items() if held}
        present: dict[str, int] = defaultdict(int)
        for held in counts.values():
            for name, count in held.items():
                present[name] += count
        self._stored = {n: s for n, s in (stored or {}).items() if n not in present}
        self._weighted = DomainWeights(
            present, {name: own["count"] for name, own in self._stored.items()}, weighting
        )
        self.names, self.counts = self._weighted.names, self._weighted.counts
        self.weights = self._weighted.weights
        self._measured: list[_Measured] = []
        self._examples: list[ExampleRows] = []
        self._spreads: list[tuple[int, Tensor]] = []
        self._calls = 0
        # This round's moments by place and statistic, then by domain.
        self._fresh: dict[str, dict[str, Tensor]] = {}

    @classmethod
    def of_outputs(
        cls, outputs: Mapping[str, HeadOutputs], weighting: Weighting = "uniform"
    ) -> Domains:
        """Return the domains of examples whose outputs are at hand, without a federation.

        Parameters
        ----------
        outputs : Mapping[str, HeadOutputs]
            By domain; at least one domain, none without examples.
        weighting : "uniform" or "examples"
            Whether domains count the same or by their examples.
        """
        exchange = LocalExchange(outputs)
        return cls(exchange, {HERE: exchange.counts}, weighting)

    @classmethod
    def of_model(
        cls,
        model: nn.Module,
        examples: Mapping[str, tuple[Tensor, Tensor]],
        weighting: Weighting = "uniform",
        task: Task | None = None,
    ) -> Domains:
        """Return the domains of a model on examples at hand, to try a penalty on.

        Parameters
        ----------
        model : nn.Module
            A model with a head; see :class:`~atoll.clients.SplitModel`.
        examples : Mapping[str, tuple[Tensor, Tensor]]
            By domain, what the model takes and the labels: shapes (n, ...) and, for a
            classification, int64, (n,).
        weighting : "uniform" or "examples"
            Whether domains count the same or by their examples.
        task : Task, optional
            What the model predicts; by default classes.

        Raises
        ------
        ValueError
            If the model has no head (see :class:`~atoll.clients.SplitModel`), or the task's loss
            no closed form.
        """
        loss = CROSS_ENTROPY if task is None else task.output_loss
        if task is not None and loss is None:
            raise ValueError(f"task {task.kind!r}: expected one prediction an example")
        split = SplitModel(model, loss or CROSS_ENTROPY)
        outputs = {
            name: split(images, labels, torch.arange(len(labels)))
            for name, (images, labels) in examples.items()
        }
        return cls.of_outputs(outputs, weighting)

    def __len__(self) -> int:
        return len(self.names)

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of arrays in messages."""
        return self._exchange.dtype

    def moments(self, *statistics: Statistic) -> tuple[Tensor, ...]:
        """Ask for statistics, in one exchange; return each one's moments, shape (n, ...)."""
        values = self._ask(statistics, [None] * len(statistics))
        for statistic, leaf in zip(statistics, values, strict=True):
            self._measured.append(_Measured(statistic, leaf.requires_grad_()))
        return tuple(values)

    def moment(self, statistic: Statistic) -> Tensor:
        """Ask for one statistic."""
        return self.moments(statistic)[0]

    def examples(self, statistic: Statistic) -> list[Tensor]:
        """Ask for a statistic with a row an example.

        The server then sees every example's own value, where moments show it sums.

        Parameters
        ----------
        statistic : Statistic
            One that is :attr:`~atoll.clients.moments.statistic.Statistic.of_examples`.

        Returns
        -------
        list[Tensor]
            By domain, shape (examples, ...), of the nodes one after another.
        """
        if not statistic.of_examples:
            raise ValueError(f"{statistic.name} is a sum over examples; expected moments(...)")
        answers = self._exchange.ask(self._held, (statistic,))
        key = f"{self._calls}/{statistic.name}"
        self._calls += 1
        stored = {name: own["values"][key] for name, own in self._stored.items()}
        asked = ExampleRows.of_answers(statistic, answers, self.names, stored)
        self._fresh[key] = asked.own
        self._examples.append(asked)
        return list(asked.values)

    def hessian_products(self, vectors: Tensor) -> Tensor:
        """Return the products of each domain's head Hessian with vectors of its own.

        Parameters
        ----------
        vectors : Tensor
            Shape (n, k, h); may depend on moments.

        Returns
        -------
        Tensor
            Shape (n, k, h).
        """
        statistic = HessianProduct()
        (values,) = self._ask([statistic], [vectors.detach()])
        self._measured.append(_Measured(statistic, values.requires_grad_(), vectors))
        return values

    def moved_head_risks(self, moves: Tensor) -> tuple[Tensor, Tensor]:
        """Return each domain's loss, and its head gradient, with the head moved; as constants.

        Parameters
        ----------
        moves : Tensor
            Shape (k, h): k heads, less the present one.

        Returns
        -------
        tuple[Tensor, Tensor]
            Shapes (n, k) and (n, k, h).
        """
        vectors = moves.expand(len(self), *moves.shape)
        (values,) = self._ask([MovedHeadRisk()], [vectors])
        return values[:, :, 0], values[:, :, 1:]

    def mean(self, values: Tensor) -> Tensor:
        """Return the weighted mean over domains, shape (...)."""
        shape = (-1, *[1] * (values.dim() - 1))
        return (self.weights.view(shape) * values).sum(0)

    def spread(self, values: Tensor, target: Tensor | None = None) -> Tensor:
        """Return the weighted mean over domains of ||values_e - target||^2, a scalar.

        Parameters
        ----------
        values : Tensor
            Shape (n, ...).
        target : Tensor, optional
            Shape (...); by default the weighted mean of the values.
        """
        difference = values - (self.mean(values) if target is None else target)
        spread = self.weights @ difference.reshape(len(self), -1).square().sum(1)
        for index, measured in enumerate(self._measured):
            if measured.values is values:
                spread.retain_grad()
                self._spreads.append((index, spread))
        return spread

    def example_weights(self) -> dict[str, float]:
        """Return the weight of one example of each domain; 1 where domains count by examples.

        The weights of the domains in the round make up a whole loss.
        """
        return self._weighted.example_weights()

    def terms(self, penalty: Tensor, *, quadratic: bool) -> tuple[dict[str, float], list[Term]]:
        """Return the penalty's gradient by the moments, for clients.

        The loss and the penalty are of the same domains. Where some are not in the round, the loss
        of the others is a whole one (1 / ``present_share`` of their weight among all), and so the
        penalty's gradient is longer by that factor too.

        Parameters
        ----------
        penalty : Tensor
            A scalar in the graph of this object's moments.
        quadratic : bool
            Whether the terms have the curvature of the penalty's spreads.

        Returns
        -------
        tuple
            Weight of one example's loss by domain, beyond :meth:`example_weights`; and the
            terms in the other statistics.
        """
        if penalty.grad_fn is None:
            return {}, []
        torch.autograd.backward(penalty / self._weighted.present_share, retain_graph=True)
        self._backpropagate_products()
        scales = self._weighted.mean_scales()
        losses = dict.fromkeys(scales, 0.0)
        terms = []
        for index, measured in enumerate(self._measured):
            gradient = measured.values.grad
            if gradient is None or not bool(gradient.any()):
                continue
            if isinstance(measured.statistic, Loss) and not quadratic:
                for name, scale in scales.items():
                    losses[name] += float(gradient[self.names.index(name)]) * scale
                continue
            terms.append(self._term(index, measured, gradient, scales, quadratic))
        total = self._weighted.examples
        terms += [asked.term(total, self.dtype) for asked in self._examples if asked.is_used]
        return losses, terms

    def _term(
        self,
        index: int,
        measured: _Measured,
        gradient: Tensor,
        scales: Mapping[str, float],
        quadratic: bool,
    ) -> Term:
        dtype, places = self._exchange.dtype, {n: self.names.index(n) for n in scales}
        given = measured.vectors
        curvatures = self._curvatures(index, scales) if quadratic else {}
        return Term(
            measured.statistic,
            {name: (gradient[places[name]] * scales[name]).to(dtype) for name in scales},
            {} if given is None else {n: given[places[n]].detach().to(dtype) for n in scales},
            curvatures,
        )

    def _curvatures(self, index: int, scales: Mapping[str, float]) -> dict[str, float]:
        """Return twice the weight of ||x_e - target||^2 in the penalty, for a fixed target."""
        factor = sum(float(s.grad) for i, s in self._spreads if i == index and s.grad is not None)
        return {
            name: 2 * factor * float(self.weights[self.names.index(name)]) * scale
            for name, scale in scales.items()
        }

    def _backpropagate_products(self) -> None:
        for measured in reversed(self._measured):
            vectors, gradient = measured.vectors, measured.values.grad
            if vectors is None or gradient is None or not vectors.requires_grad:
                continue
            if bool(gradient.any()):
                (back,) = self._ask([measured.statistic], [gradient], store=False)
                torch.autograd.backward(vectors, back, retain_graph=True)

    def _ask(
        self,
        statistics: Sequence[Statistic],
        vectors: Sequence[Tensor | None],
        *,
        store: bool = True,
    ) -> list[Tensor]:
        given = {
            (index, name): values[place]
            for index, values in enumerate(vectors)
            if values is not None
            for place, name in enumerate(self.names)
        }
        rows_of = [statistic.name for statistic in statistics if statistic.of_examples]
        if rows_of:
            raise ValueError(f"{rows_of[0]} has a row an example; expected examples(...)")
        answers = self._exchange.ask(self._held, statistics, given)
        result = []
        for index, statistic in enumerate(statistics):
            key = f"{self._calls}/{statistic.name}"
            self._calls += store
            means = means_of(answers, index, self._weighted.count_of)
            rows = [
                means[name] if name in means else self._remembered(name, key, means, store)
                for name in self.names
            ]
            if store:
                self._fresh[key] = means
            result.append(torch.stack(rows))
        return result

    def _remembered(self, name: str, key: str, means: Mapping[str, Tensor], store: bool) -> Tensor:
        """Return a stored moment of a domain that is not here; a cotangent of it leads nowhere."""
        like = next(iter(means.values()))
        return self._stored[name]["values"][key].to(like) if store else torch.zeros_like(like)

    def remember(self, server_round: int) -> dict[str, StoredMoments]:
        """Return this round's moments of the domains that are here, to be stored."""
        return {
            name: StoredMoments(
                count=self._weighted.count_of[name],
                server_round=server_round,
                values={key: means[name] for key, means in self._fresh.items() if name in means},
            )
            for name in self._weighted.own
        }
