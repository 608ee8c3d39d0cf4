"""Exchange of moments: queries to clients over any Flower Grid, and their answers."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import torch
from flwr.app import ArrayRecord, ConfigRecord, Message, RecordDict
from flwr.serverapp import Grid
from torch import Tensor

from atoll.clients.moments.moment_messages import QUERY, DomainSums, MomentsQuery, TrainingTerms
from atoll.clients.moments.statistic import Statistic
from atoll.clients.moments.statistics import Loss

# Of a number in a ConfigRecord.
FLOAT_BYTES = 8


class NodesFailedError(Exception):
    """Some nodes did not answer a query; the round starts again without them.

    Attributes
    ----------
    reasons : dict[int, str]
        Why, by node.
    """

    def __init__(self, reasons: Mapping[int, str]) -> None:
        super().__init__(f"{len(reasons)} nodes did not answer")
        self.reasons = dict(reasons)


@dataclass
class Traffic:
    """Bytes of arrays for alignment, over all clients, by statistic."""

    up: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    down: dict[str, int] = field(default_factory=lambda: defaultdict(int))

    def count_terms(self, terms: TrainingTerms, domains: Iterable[str]) -> None:
        """Count the bytes that a client of ``domains`` gets with its training message."""
        held = list(domains)
        if terms.loss_weights != terms.weights:
            self.down[Loss().name] += FLOAT_BYTES * len(held)
        for term in terms.terms:
            for part in (term.cotangents, term.vectors):
                self.down[term.statistic.name] += sum(part[n].nbytes for n in held if n in part)

    def metrics(self) -> dict[str, float]:
        """Return them as metrics."""
        named = (("up", self.up), ("down", self.down))
        return {
            f"bytes_{way}_{name}": float(count)
            for way, counts in named
            for name, count in sorted(counts.items())
        }


class Exchange(Protocol):
    """Interface of exchanges that answer queries for moments."""

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of what travels."""

    def ask(
        self,
        domains_of: Mapping[int, Sequence[str]],
        statistics: Sequence[Statistic],
        vectors: Mapping[tuple[int, str], Tensor] | None = None,
    ) -> dict[int, DomainSums]:
        """Return sums of statistics by node; see :meth:`MomentExchange.ask`."""


@dataclass(frozen=True)
class MomentExchange:
    """Queries to the nodes of a round.

    Attributes
    ----------
    grid : Grid
        Any Flower Grid.
    arrays : ArrayRecord
        The broadcast parameters.
    server_round : int
        The round.
    examples : int or None
        How many of its examples a client uses in this round.
    traffic : Traffic
        Counts bytes.
    before_gradient : bool
        Whether clients will be asked for a gradient at the broadcast parameters.
    arrays_key, config_key : str
        The strategy's names of records.
    """

    grid: Grid
    arrays: ArrayRecord
    server_round: int
    examples: int | None
    traffic: Traffic
    before_gradient: bool = False
    arrays_key: str = "arrays"
    config_key: str = "config"

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of the model's first array of floats: that of what travels."""
        for array in self.arrays.values():
            found = getattr(torch, array.dtype, None)
            if isinstance(found, torch.dtype) and found.is_floating_point:
                return found
        return torch.float32

    def ask(
        self,
        domains_of: Mapping[int, Sequence[str]],
        statistics: Sequence[Statistic],
        vectors: Mapping[tuple[int, str], Tensor] | None = None,
        arrays: ArrayRecord | None = None,
    ) -> dict[int, DomainSums]:
        """Ask nodes for sums of statistics.

        Parameters
        ----------
        domains_of : mapping
            The nodes to ask, and the domains that each holds (empty where that is not known).
        statistics : Sequence[Statistic]
            What to ask for.
        vectors : mapping, optional
            Of Hessian products, by the statistic's index and domain.
        arrays : ArrayRecord, optional
            Other parameters than the broadcast ones.

        Returns
        -------
        dict[int, DomainSums]
            By node.

        Raises
        ------
        NodesFailedError
            If a node does not answer.
        """
        contents: dict[tuple[str, ...], RecordDict] = {}
        messages = []
        for node, domains in domains_of.items():
            held = tuple(domains)
            if held not in contents:
                contents[held] = self._content(held, statistics, vectors or {}, arrays)
            for (index, domain), values in (vectors or {}).items():
                if domain in held:
                    self.traffic.down[statistics[index].name] += _bytes(values, self.dtype)
            messages.append(Message(contents[held], dst_node_id=node, message_type=QUERY))
        replies = self.grid.send_and_receive(messages)
        return self._answers(set(domains_of), replies, statistics)

    def _content(
        self,
        domains: tuple[str, ...],
        statistics: Sequence[Statistic],
        vectors: Mapping[tuple[int, str], Tensor],
        arrays: ArrayRecord | None,
    ) -> RecordDict:
        own = {key: v.to(self.dtype) for key, v in vectors.items() if key[1] in domains}
        before_gradient = self.before_gradient and arrays is None
        query = MomentsQuery(tuple(statistics), own, self.examples, before_gradient)
        config = ConfigRecord({"server-round": self.server_round})
        parameters = self.arrays if arrays is None else arrays
        return RecordDict({self.arrays_key: parameters, self.config_key: config, **query.records()})

    def _answers(
        self, nodes: set[int], replies: Iterable[Message], statistics: Sequence[Statistic]
    ) -> dict[int, DomainSums]:
        answers: dict[int, DomainSums] = {}
        reasons = dict.fromkeys(nodes, "no reply")
        for reply in replies:
            node = reply.metadata.src_node_id
            if reply.has_error():
                reasons[node] = reply.error.reason or "an error without a reason"
                continue
            sums = DomainSums.from_records(reply.content)
            broken = [d for (_, d), v in sums.sums.items() if not bool(torch.isfinite(v).all())]
            if broken:
                reasons[node] = f"NaN or infinite moments of domain {broken[0]!r}"
                continue
            answers[node] = sums
            reasons.pop(node, None)
            for (index, _), values in sums.sums.items():
                self.traffic.up[statistics[index].name] += values.nbytes
        if reasons:
            raise NodesFailedError(reasons)
        return {node: answers[node] for node in sorted(answers)}


def _bytes(values: Tensor, dtype: torch.dtype) -> int:
    return values.numel() * dtype.itemsize
