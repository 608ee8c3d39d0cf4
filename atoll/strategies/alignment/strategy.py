"""The strategy that all alignment methods share.

A round: clients answer queries for moments of their domains; the method's penalty, a function of
them, is differentiated; clients train on their loss plus <cotangent, moment>; the server averages.
The mean of the clients' gradients at the broadcast parameters is then the gradient of the
centralised objective, however domains are spread over clients. It is a Flower strategy: queries are
sent from ``configure_train``, so it runs on any Grid.
"""

from __future__ import annotations

import logging
import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from flwr.app import ArrayRecord, ConfigRecord, Message, MessageType, MetricRecord, RecordDict
from flwr.serverapp import Grid
from flwr.serverapp.strategy import FedAvg
from torch import Tensor

from atoll.clients.arrays.conversion import array_record
from atoll.clients.moments.messages import Term, TrainingTerms
from atoll.clients.moments.statistic import Statistic
from atoll.errors import EngineError, InvalidExperimentError
from atoll.strategies.alignment.diagnostics import measure_diagnostics
from atoll.strategies.alignment.domains import Domains, StoredMoments, Weighting
from atoll.strategies.alignment.exchange import MomentExchange, NodesFailedError, Traffic
from atoll.strategies.alignment.lost_clients import lost_share, warn_of_lost_clients
from atoll.strategies.alignment.penalty import check_penalty, check_terms
from atoll.strategies.alignment.server_optimizer import ServerOptimizer, difference
from atoll.strategies.fields import (
    Count,
    Fraction,
    NonNegative,
    NonNegativeCount,
    Positive,
    check_fields,
)
from atoll.strategies.mean import uses_mean_only
from atoll.user_code import user_code

logger = logging.getLogger("atoll")

# Probes of every round, where moments of different rounds are compared.
FIXED_SEED = 1


@dataclass(kw_only=True, eq=False)
class AlignmentStrategy(FedAvg):
    """FedAvg with a penalty over the moments of domains; a method overrides :meth:`penalty`.

    Parameters
    ----------
    fraction_train, fraction_evaluate, min_train_nodes, min_evaluate_nodes, min_available_nodes
        As Flower's FedAvg.
    domain_weights : "uniform" or "examples"
        Whether domains count the same (as with DomainBed's equal batches), or by their examples
        (as FedAvg).
    penalty_weight : float
        The weight of the penalty; at 0 there is none in any round, and the strategy is FedAvg
        (with ``domain_weights``).
    anneal_rounds : int
        Rounds before the penalty has that weight.
    initial_penalty_weight : float
        Its weight until then.
    reset_optimizer : bool
        Whether the server's optimiser starts anew when the weight changes.
    rescale_loss : bool
        Whether the whole loss is divided by the penalty's weight where that is over 1.
    sum_over_domains : bool
        Whether the penalty is a sum over domains in place of their mean.
    l2 : float
        The weight of the squared norm of all trainable parameters in the loss.
    client_update : "cotangent", "quadratic" or "gradient"
        What clients do: train with fixed cotangents; train with the squared distance of their
        moments to the target, evaluated at every step; or reply with the gradient alone, which
        makes a round one exact step of the centralised method.
    server_optimizer : "average", "sgd" or "adam"
        What the server does with the mean of replies: takes it for the new model, or takes a step
        along the gradient (or along the clients' mean change).
    server_learning_rate, server_weight_decay : float
        Of ``sgd`` and ``adam``.
    examples_per_round : int, optional
        How many of its examples each client uses in a round, drawn anew; by default all.
    stale_moments : bool
        Whether domains without a client in the cohort take part in the penalty with their last
        moments.
    report_drift : bool
        Whether clients that take several steps measure how far these left the exact gradient
        (one more pass over their examples).
    diagnostics_every : int
        Rounds between measurements of the distances of domains' gradients and Hessians; 0 for
        none.

    Examples
    --------
    >>> from dataclasses import dataclass
    >>> from torch import Tensor
    >>> from atoll.clients import HeadGradient
    >>> from atoll.strategies import AlignmentStrategy, Domains
    >>> @dataclass(kw_only=True, eq=False)
    ... class AlignedHeads(AlignmentStrategy):
    ...     '''The spread of the domains' head gradients.'''
    ...
    ...     penalty_weight: float = 0.1
    ...
    ...     def penalty(self, domains: Domains) -> Tensor:
    ...         return domains.spread(domains.moment(HeadGradient()))
    >>> AlignedHeads(fraction_train=0.5).penalty_weight
    0.1
    """

    # Whether the penalty is a sum of spreads of statistics, as client_update "quadratic" needs.
    is_quadratic: ClassVar[bool] = False
    # Whether nothing but sums over clients is used, as secure aggregation needs.
    sums_suffice: ClassVar[bool] = True
    # Whether moments are needed even while the penalty's weight is 0.
    always_measures: ClassVar[bool] = False
    # Whether clients report the loss of the model that they trained.
    reports_loss_after: ClassVar[bool] = False
    # The fewest domains that the method makes sense for.
    min_domains: ClassVar[int] = 2

    fraction_train: Fraction = 1.0
    fraction_evaluate: Fraction = 1.0
    min_train_nodes: NonNegativeCount = 1
    min_evaluate_nodes: NonNegativeCount = 1
    min_available_nodes: Count = 1
    domain_weights: Weighting = "uniform"
    penalty_weight: NonNegative = 1.0
    anneal_rounds: NonNegativeCount = 0
    initial_penalty_weight: NonNegative = 0.0
    reset_optimizer: bool = True
    rescale_loss: bool = False
    sum_over_domains: bool = False
    l2: NonNegative = 0.0
    client_update: Literal["cotangent", "quadratic", "gradient"] = "cotangent"
    server_optimizer: Literal["average", "sgd", "adam"] = "average"
    server_learning_rate: Positive | None = None
    server_weight_decay: NonNegative = 0.0
    examples_per_round: Count | None = None
    stale_moments: bool = False
    report_drift: bool = True
    diagnostics_every: NonNegativeCount = 0

    def __post_init__(self) -> None:
        check_fields(self)
        super().__init__(
            self.fraction_train,
            self.fraction_evaluate,
            self.min_train_nodes,
            self.min_evaluate_nodes,
            self.min_available_nodes,
            weighted_by_key="weight",
        )
        self._check_combination()
        self.optimizer = ServerOptimizer(
            self.server_optimizer, self.server_learning_rate_at(1), self.server_weight_decay
        )
        # A method's own state from round to round (moving averages, weights of domains).
        self.memory: dict[str, Tensor] = {}
        self.stored: dict[str, StoredMoments] = {}
        self._counts: dict[int, dict[str, int]] = {}
        # The keys of the arrays that clients train, as they say.
        self._trained: list[str] = []
        self._broadcast: ArrayRecord | None = None
        self._report: dict[str, float] = {}
        self._sent_weight = 0.0
        self._warned_of_one_domain = False
        self._warned_of_no_gradient = False

    def _check_combination(self) -> None:
        steps = self.server_optimizer != "average"
        if self.client_update == "gradient" and not steps:
            raise InvalidExperimentError(
                f"strategy.server_optimizer = {self.server_optimizer!r}: expected 'sgd' or 'adam' "
                "with strategy.client_update = 'gradient'"
            )
        if steps and self.server_learning_rate is None:
            raise InvalidExperimentError(
                "strategy.server_learning_rate is not set; expected a number above 0 with "
                f"strategy.server_optimizer = {self.server_optimizer!r}"
            )
        if self.client_update == "quadratic" and not self.is_quadratic:
            raise InvalidExperimentError(
                f"strategy.client_update = 'quadratic': the penalty of {type(self).__name__} is "
                "not a squared distance of moments to their mean; expected 'cotangent' or "
                "'gradient'"
            )

        if self.mixup_alpha is not None and (self.l2 or self.measures):
            key = f"strategy.l2 = {self.l2:g}" if self.l2 else "strategy.name"
            raise InvalidExperimentError(
                f"{key}: {type(self).__name__} mixes a client's examples, which takes neither l2 "
                "nor a penalty; expected l2 = 0 (client.weight_decay decays too) and a method "
                "without moments"
            )

    # --- what a method is ----------------------------------------------------------------------

    def penalty(self, domains: Domains) -> Tensor:
        """Return the penalty, a scalar function of the domains' moments.

        State that lasts goes into :attr:`memory`.
        """
        return torch.zeros((), dtype=torch.float64)

    def local_terms(self) -> Sequence[tuple[Statistic, float]]:
        """Return statistics in each client's own loss with a fixed weight."""
        return ()

    @property
    def mixup_alpha(self) -> float | None:
        """The parameter of Mixup of a client's examples; None for no Mixup."""
        return None

    @property
    def needs_linear_head(self) -> bool:
        """Whether the method has a closed form for a linear head only."""
        return False

    @property
    def needs_gaussian_head(self) -> bool:
        """Whether the method needs a model with a Gaussian representation."""
        return False

    @property
    def measures(self) -> bool:
        """Whether the method asks clients for moments, or has them in their loss."""
        return type(self).penalty is not AlignmentStrategy.penalty or bool(self.local_terms())

    def penalty_weight_at(self, server_round: int) -> float:
        """Return the penalty's weight in a round, from 1."""
        if server_round <= self.anneal_rounds and self.penalty_weight > 0.0:
            return self.initial_penalty_weight
        return self.penalty_weight

    def server_learning_rate_at(self, server_round: int) -> float:
        """Return the server's learning rate in a round, from 1; 0 where it takes no steps."""
        return self.server_learning_rate or 0.0

    def probe_seed(self) -> int:
        """Return the seed of a round's random vectors."""
        # Flower's strategies sample nodes from this generator, whose state is in checkpoints.
        return FIXED_SEED if self.stale_moments else random.getrandbits(62)

    # --- Flower's strategy ---------------------------------------------------------------------

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Measure moments on the sampled nodes, and send them what to train on."""
        self._broadcast, self._report = arrays, {}
        if server_round == self.anneal_rounds + 1 and server_round > 1 and self.reset_optimizer:
            self.optimizer.reset()
        self.optimizer.learning_rate = self.server_learning_rate_at(server_round)
        nodes = [
            message.metadata.dst_node_id
            for message in super().configure_train(server_round, arrays, config, grid)
        ]
        traffic = Traffic()
        exchange = self.exchange_of(server_round, arrays, grid, traffic)
        reasons: dict[int, str] = {}
        while nodes:
            memory = dict(self.memory)
            try:
                counts = self._counts_of(nodes, exchange)
                if not counts:
                    logger.warning(
                        "round %d: none of the clients has examples; the model stays", server_round
                    )
                    return []
                messages = self._messages(server_round, exchange, counts, config)
            except NodesFailedError as failure:
                # Their domains' moments lack them, so the round is measured without them.
                self.memory = memory
                reasons.update(failure.reasons)
                for node, reason in failure.reasons.items():
                    logger.warning("round %d: node %d left out: %s", server_round, node, reason)
                nodes = [node for node in nodes if node not in failure.reasons]
            else:
                self._report.update(traffic.metrics())
                return messages
        if reasons:
            node, reason = min(reasons.items())
            raise EngineError(
                f"no client answered the query for moments; node {node}: {reason.splitlines()[0]}"
            )
        return []

    def _counts_of(
        self, nodes: Sequence[int], exchange: MomentExchange
    ) -> dict[int, dict[str, int]]:
        """Return the examples by domain of the nodes that have any.

        They are asked for once where they do not change. A node without examples has no moment and
        counts for nothing in the mean, so it takes no part in the round.
        """
        if self.examples_per_round is not None:
            # A draw from several domains has another number of each in every round.
            self._counts = {n: held for n, held in self._counts.items() if len(held) < 2}
        unknown: dict[int, Sequence[str]] = {n: () for n in nodes if n not in self._counts}
        if unknown:
            for node, answer in exchange.ask(unknown, ()).items():
                self._counts[node] = {name: n for name, n in answer.counts.items() if n}
                self._trained = list(answer.parameters)
        return {node: self._counts[node] for node in nodes if self._counts[node]}

    def exchange_of(
        self, server_round: int, arrays: ArrayRecord, grid: Grid, traffic: Traffic
    ) -> MomentExchange:
        """Return the exchange with a round's nodes."""
        return MomentExchange(
            grid,
            arrays,
            server_round,
            self.examples_per_round,
            traffic,
            self.client_update == "gradient",
            self.arrayrecord_key,
            self.configrecord_key,
        )

    def _messages(
        self,
        server_round: int,
        exchange: MomentExchange,
        counts: Mapping[int, Mapping[str, int]],
        config: ConfigRecord,
    ) -> list[Message]:
        stored = self.stored if self.stale_moments else {}
        domains = Domains(exchange, counts, self.domain_weights, stored)
        terms = self._training_terms(server_round, domains)
        self._diagnose(server_round, exchange, counts)
        contents: dict[tuple[str, ...], RecordDict] = {}
        messages = []
        for node, held in counts.items():
            names, own = tuple(sorted(held)), terms.of_node(node)
            content = contents.get(names) if own is terms else None
            if content is None:
                content = contents[names] = RecordDict(
                    {
                        self.arrayrecord_key: exchange.arrays,
                        self.configrecord_key: config,
                        **own.records(names),
                    }
                )
            exchange.traffic.count_terms(own, names)
            messages.append(Message(content, node, MessageType.TRAIN))
        self._sent_weight = sum(
            terms.weights[name] * count for held in counts.values() for name, count in held.items()
        )
        return messages

    def _diagnose(
        self,
        server_round: int,
        exchange: MomentExchange,
        counts: Mapping[int, Mapping[str, int]],
    ) -> None:
        if self.diagnostics_every and server_round % self.diagnostics_every == 0:
            here = Domains(exchange, counts, self.domain_weights)
            self._report.update(measure_diagnostics(here, self.probe_seed()))

    def _training_terms(self, server_round: int, domains: Domains) -> TrainingTerms:
        weight = self.penalty_weight_at(server_round)
        weights = domains.example_weights()
        losses, terms = self._measured_terms(server_round, weight, domains)
        return TrainingTerms(
            weights=weights,
            loss_weights={name: own + losses.get(name, 0.0) for name, own in weights.items()},
            terms=(*terms, *self._local_terms(domains)),
            l2=self.l2,
            scale=1 / weight if self.rescale_loss and weight > 1.0 else 1.0,
            replies_gradient=self.client_update == "gradient",
            reports_drift=self._reports_drift,
            reports_loss_after=self.reports_loss_after,
            examples=self.examples_per_round,
            mixup=self.mixup_alpha,
        )

    @property
    def _reports_drift(self) -> bool:
        # With Mixup a gradient over all examples is another draw.
        takes_steps = self.client_update != "gradient" and self.mixup_alpha is None
        return self.report_drift and takes_steps

    def _measured_terms(
        self, server_round: int, weight: float, domains: Domains
    ) -> tuple[dict[str, float], list[Term]]:
        if weight == 0.0 and not self.always_measures:
            return {}, []
        if len(domains) < self.min_domains:
            self._warn_of_one_domain(domains.names)
            return {}, []
        method = type(self).__name__
        with user_code(f"{method}.penalty", NodesFailedError):
            penalty = check_penalty(method, server_round, self.penalty(domains))
        if penalty.grad_fn is None:
            self._warn_of_no_gradient()
            return {}, []
        factor = len(domains) if self.sum_over_domains else 1
        self._report.update(penalty=float(penalty.detach()) * factor, penalty_weight=weight)
        quadratic = self.client_update == "quadratic"
        with user_code(f"the gradient of {method}.penalty", NodesFailedError):
            found = domains.terms(weight * factor * penalty, quadratic=quadratic)
        check_terms(method, server_round, *found, domains.dtype)
        if self.stale_moments:
            self._remember(server_round, domains)
        return found

    def _warn_of_no_gradient(self) -> None:
        is_own = type(self).penalty is not AlignmentStrategy.penalty
        if is_own and not self._warned_of_no_gradient:
            self._warned_of_no_gradient = True
            logger.warning(
                "the penalty of %s does not depend on the domains' moments (was one detached?), so "
                "it changes nothing",
                type(self).__name__,
            )

    def _remember(self, server_round: int, domains: Domains) -> None:
        self.stored.update(domains.remember(server_round))
        ages = [server_round - s["server_round"] for s in self.stored.values()]
        self._report.update(
            stale_domains=float(sum(age > 0 for age in ages)), oldest_moments=float(max(ages))
        )

    def _local_terms(self, domains: Domains) -> list[Term]:
        weights = domains.example_weights()
        with user_code(f"{type(self).__name__}.local_terms"):
            own_terms = self.local_terms()
        return [
            Term(statistic, {n: _scalar(weight * own) for n, own in weights.items()})
            for statistic, weight in own_terms
        ]

    def _warn_of_one_domain(self, names: Sequence[str]) -> None:
        if not self._warned_of_one_domain:
            self._warned_of_one_domain = True
            logger.warning(
                "%s has nothing to align in rounds whose clients hold only the domain %s: they are "
                "rounds of ERM",
                type(self).__name__,
                ", ".join(names),
            )

    @uses_mean_only
    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Average the replies, and take the server's step."""
        kept = list(replies)
        mean, metrics = super().aggregate_train(server_round, kept)
        broadcast, self._broadcast = self._broadcast, None
        if mean is None or broadcast is None:
            return mean, metrics
        lost = lost_share(kept, self.weighted_by_key, self._sent_weight)
        if lost and "penalty" in self._report:
            warn_of_lost_clients(server_round, kept, lost)
        self._report["lost_weight"] = lost
        return self._step(broadcast, mean), self._with_report(metrics)

    def aggregate_evaluate(
        self, server_round: int, replies: Iterable[Message]
    ) -> MetricRecord | None:
        """Average the clients' evaluations by their examples."""
        of_training, self.weighted_by_key = self.weighted_by_key, "num-examples"
        try:
            return super().aggregate_evaluate(server_round, replies)
        finally:
            self.weighted_by_key = of_training

    def _step(self, broadcast: ArrayRecord, mean: ArrayRecord) -> ArrayRecord:
        if self.server_optimizer == "average":
            return mean
        if self.client_update == "gradient":
            return self.optimizer.step(broadcast, mean, self._trained)
        stepped = self.optimizer.step(broadcast, difference(broadcast, mean), self._trained)
        # What clients change without training it, as BatchNorm's statistics, is averaged.
        trained = set(self._trained)
        return array_record({k: a if k in trained else mean[k] for k, a in stepped.items()})

    def _with_report(self, metrics: MetricRecord | None) -> MetricRecord:
        values: dict[str, Any] = dict(metrics or {})
        values.pop("num-examples", None)
        values.update(self._report, sums_suffice=float(self.sums_suffice))
        return MetricRecord(values)


def _scalar(value: float) -> Tensor:
    return torch.tensor(value, dtype=torch.float64)
