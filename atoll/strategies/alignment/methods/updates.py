"""Methods that combine the clients' updates by more than their mean; they need every reply."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord

from atoll.clients.moments.statistics import Loss
from atoll.flower.arrays import array_record, to_array, view
from atoll.strategies.alignment.alignment_strategy import AlignmentStrategy
from atoll.strategies.alignment.moments.moment_exchange import MomentExchange
from atoll.strategies.strategy_fields import Fraction, NonNegative, NonNegativeCount, Positive


@dataclass(kw_only=True, eq=False)
class FedGMA(AlignmentStrategy):
    """Gradient-masked averaging (Tenison et al., 2023).

    The mean update is multiplied, entry by entry, by the clients' agreement ``|mean of signs|``, or
    by 1 from ``tau`` on.

    Parameters
    ----------
    tau : float
        Agreement from which on an entry has the factor 1, in [0, 1].
    step_size : float
        Factor of the server's step on the masked mean update, above 0.

    Examples
    --------
    >>> from atoll.strategies import FedGMA
    >>> strategy = FedGMA(tau=0.4, step_size=1.0)
    >>> strategy.sums_suffice  # secure aggregation would hide the signs
    False
    """

    # The signs of each update are taken on the server.
    sums_suffice: ClassVar[bool] = False
    min_domains: ClassVar[int] = 1
    penalty_weight: NonNegative = 0.0
    client_update: Literal["cotangent"] = "cotangent"
    server_optimizer: Literal["average"] = "average"
    tau: Fraction = 0.4
    step_size: Positive = 1.0

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """See :class:`FedGMA`."""
        kept = list(replies)
        broadcast = self._broadcast
        mean, metrics = super().aggregate_train(server_round, kept)
        if mean is None or broadcast is None:
            return mean, metrics
        updates = _arrays_of(kept, self.weighted_by_key)
        changed = {}
        for key, array in broadcast.items():
            before = view(array)
            if before.dtype.kind != "f":
                changed[key] = mean[key]
                continue
            signs = [np.sign(view(arrays[key]) - before) for arrays in updates]
            agreement = np.abs(np.mean(signs, axis=0))
            mask = np.where(agreement >= self.tau, 1.0, agreement)
            moved = before + self.step_size * mask * (view(mean[key]) - before)
            changed[key] = to_array(np.asarray(moved, dtype=before.dtype))
        return array_record(changed), metrics


@dataclass(kw_only=True, eq=False)
class FedDGGA(AlignmentStrategy):
    """Generalisation adjustment (Zhang et al., "FedDG-GA", CVPR 2023).

    Clients count more in the mean where the global model's loss is above that of the model that
    they trained in the last round: a_k grows by a step times (gap - mean gap) / largest deviation.

    Parameters
    ----------
    step_size : float
        The first step of the weights; it goes down to 0 over ``decay_rounds``.
    decay_rounds : int
        Rounds until the step is 0; 0 for a constant step.
    as_released : bool
        The released code's steps: a third as long, and two rounds behind in ``decay_rounds``, so
        that the first is longer than ``step_size``. (It divides by zero where all gaps are the
        same; here they then change nothing.)

    Examples
    --------
    >>> from atoll.strategies import FedDGGA
    >>> strategy = FedDGGA(step_size=0.2, decay_rounds=100)
    >>> strategy.reports_loss_after, strategy.sums_suffice
    (True, False)
    """

    sums_suffice: ClassVar[bool] = False
    reports_loss_after: ClassVar[bool] = True
    min_domains: ClassVar[int] = 1
    penalty_weight: NonNegative = 0.0
    step_size: NonNegative = 0.2
    decay_rounds: NonNegativeCount = 0
    as_released: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        self._client_weights: dict[int, float] = {}
        self._losses_after: dict[int, float] = {}

    @property
    def measures(self) -> bool:
        """Losses are moments."""
        return True

    def training_messages(
        self,
        server_round: int,
        exchange: MomentExchange,
        counts: Mapping[int, Mapping[str, int]],
        config: ConfigRecord,
    ) -> list[Message]:
        """Adjust the clients' weights, and return the round's training messages."""
        for node in counts:
            self._client_weights.setdefault(node, 1 / len(counts))
        self._reset_zero_weights(list(counts))
        if self._losses_after:
            held = {node: tuple(sorted(domains)) for node, domains in counts.items()}
            answers = exchange.ask(held, (Loss(),))
            losses = {
                node: sum(map(float, answer.sums.values())) / max(1, sum(answer.counts.values()))
                for node, answer in answers.items()
            }
            self._adjust(server_round, losses)
        messages = super().training_messages(server_round, exchange, counts, config)
        self._sent_weight = sum(self._client_weights[node] for node in counts)
        return messages

    def _reset_zero_weights(self, nodes: Sequence[int]) -> None:
        """Reset the weights of clients if all of them are 0.

        Weights are clipped at 0, and a cohort of nothing else would have no mean, nor would its
        weights, which a round only moves among its clients, ever leave 0.
        """
        if nodes and not any(self._client_weights.get(node, 0.0) for node in nodes):
            self._client_weights.update(dict.fromkeys(nodes, 1 / len(nodes)))

    def _adjust(self, server_round: int, losses: Mapping[int, float]) -> None:
        gaps = {
            node: loss - self._losses_after[node]
            for node, loss in losses.items()
            if node in self._losses_after
        }
        if not gaps:
            return
        mean = sum(gaps.values()) / len(gaps)
        largest = max(abs(gap - mean) for gap in gaps.values())
        # With all gaps the same (one client, say) there is nothing to adjust: the released code
        # divides by zero here.
        if largest == 0.0:
            return
        passed = server_round - (3 if self.as_released else 1)
        left = 1 - passed / self.decay_rounds if self.decay_rounds else 1.0
        step = self.step_size * max(0.0, left) / (3 if self.as_released else 1)
        known = sum(self._client_weights[node] for node in gaps)
        moved = {
            node: min(1.0, max(0.0, self._client_weights[node] + step * (gap - mean) / largest))
            for node, gap in gaps.items()
        }
        total = sum(moved.values())
        for node, weight in moved.items():
            self._client_weights[node] = weight / total * known

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """See :class:`FedDGGA`."""
        kept = list(replies)
        came = [reply for reply in kept if not reply.has_error()]
        # Those with a weight may be the ones that failed.
        self._reset_zero_weights([reply.metadata.src_node_id for reply in came])
        for reply in came:
            node = reply.metadata.src_node_id
            metrics = next(iter(reply.content.metric_records.values()))
            metrics[self.weighted_by_key] = self._client_weights.get(node, 0.0)
            after = float(metrics["loss_after"])  # type: ignore[arg-type]
            if math.isfinite(after):
                self._losses_after[node] = after
        return super().aggregate_train(server_round, kept)


def _arrays_of(replies: Sequence[Message], weighted_by: str) -> list[ArrayRecord]:
    """Return the arrays of the replies that count."""
    found = []
    for reply in replies:
        if reply.has_error():
            continue
        metrics = next(iter(reply.content.metric_records.values()))
        if metrics.get(weighted_by):
            found.append(next(iter(reply.content.array_records.values())))
    return found
