"""Strategy of one round of alignment, over any Flower Grid; a method derives from it.

A round: clients answer queries for moments of their domains; the method's penalty, a function of
them, is differentiated; clients train on their loss plus <cotangent, moment>; the server averages.
The mean of the clients' gradients at the broadcast parameters is then the gradient of the
centralised objective, however domains are spread over clients. It is a Flower strategy: queries are
sent from ``configure_train``, so it runs on any Grid.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from flwr.app import ArrayRecord, ConfigRecord, Message, MessageType, MetricRecord, RecordDict
from flwr.serverapp import Grid

from atoll.errors import EngineError
from atoll.flower.arrays import array_record
from atoll.strategies.alignment.alignment_method import AlignmentMethod
from atoll.strategies.alignment.diagnostics import measure_diagnostics
from atoll.strategies.alignment.lost_clients import lost_share, warn_of_lost_clients
from atoll.strategies.alignment.moments.domain_moments import Domains
from atoll.strategies.alignment.moments.moment_exchange import (
    MomentExchange,
    NodesFailedError,
    Traffic,
)
from atoll.strategies.alignment.server_optimizer import ServerOptimizer, difference
from atoll.strategies.alignment.training_terms import training_terms
from atoll.strategies.evaluation_weights import weighted_by_examples
from atoll.strategies.mean_only import uses_mean_only

logger = logging.getLogger("atoll")


@dataclass(kw_only=True, eq=False)
class AlignmentStrategy(AlignmentMethod):
    """FedAvg with a penalty over the moments of domains; a method overrides :meth:`penalty`.

    The arguments are those of
    :class:`~atoll.strategies.alignment.alignment_settings.AlignmentSettings`; the hooks of a method
    are those of :class:`~atoll.strategies.alignment.alignment_method.AlignmentMethod`.

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

    def __post_init__(self) -> None:
        super().__post_init__()
        self.optimizer = ServerOptimizer(
            self.server_optimizer, self.server_learning_rate_at(1), self.server_weight_decay
        )
        self._counts: dict[int, dict[str, int]] = {}
        # The keys of the arrays that clients train, as they say.
        self._trained: list[str] = []
        self._broadcast: ArrayRecord | None = None
        self._report: dict[str, float] = {}
        self._sent_weight = 0.0

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Measure moments on the sampled nodes, and send them their training terms."""
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
                messages = self.training_messages(server_round, exchange, counts, config)
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

    def training_messages(
        self,
        server_round: int,
        exchange: MomentExchange,
        counts: Mapping[int, Mapping[str, int]],
        config: ConfigRecord,
    ) -> list[Message]:
        """Return the training messages of the nodes that answered, the same content sent once.

        Parameters
        ----------
        server_round : int
            The round, from 1.
        exchange : MomentExchange
            Queries to the round's nodes.
        counts : mapping
            By node, its examples by domain.
        config : ConfigRecord
            The messages' configuration.
        """
        stored = self.stored if self.stale_moments else {}
        domains = Domains(exchange, counts, self.domain_weights, stored)
        terms = training_terms(self, server_round, domains, self._report)
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
        with weighted_by_examples(self):
            return super().aggregate_evaluate(server_round, replies)

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
