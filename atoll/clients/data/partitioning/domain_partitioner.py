"""Domain partitioner: one domain a client, an even mixture, or any degree between.

A partitioner in flwr-datasets' sense, so it also serves Flower apps of one's own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import isfinite
from typing import Any

import numpy as np

from atoll.clients.data.partitioning.dealt_partitioner import DealtPartitioner, Indices
from atoll.randomness import derive_seed


class DomainPartitioner(DealtPartitioner):
    """Gives each client a home domain, and a share of all domains.

    A share ``heterogeneity`` of each domain's examples is split over the clients whose home it is;
    the rest is split over all clients. So 1 is one domain a client and 0 mixes domains evenly (Bai
    et al., "Benchmarking Algorithms for Federated Domain Generalization", 2024, have this knob the
    other way round). With fewer clients than domains, a client is home to several domains.

    Parameters
    ----------
    num_partitions : int
        Clients.
    partition_by : str
        The data set's column with the domain.
    heterogeneity : float
        In [0, 1].
    clients_per_domain : int or Mapping[str, int], optional
        How many clients each domain is home to; by default clients are shared out evenly, in the
        domains' order. A mapping names every domain; one with 0 clients is split over all clients.
    weights : Sequence[float], optional
        The clients' relative sizes, positive, one a client; by default all are equal.
    domain_names : Sequence[str], optional
        What the numbers in the column are called.
    seed : int
        Decides which examples go where.

    Raises
    ------
    ValueError
        If an argument is out of range, or does not fit the number of clients or the domains.
    """

    def __init__(
        self,
        num_partitions: int,
        partition_by: str = "domain",
        heterogeneity: float = 1.0,
        clients_per_domain: int | Mapping[str, int] | None = None,
        weights: Sequence[float] | None = None,
        domain_names: Sequence[str] = (),
        seed: int = 0,
    ) -> None:
        super().__init__(num_partitions)
        if not _is_number(heterogeneity) or not 0.0 <= heterogeneity <= 1.0:
            raise ValueError(f"heterogeneity = {heterogeneity!r}: expected a number from 0 to 1")
        if weights is not None and not _are_weights(weights, num_partitions):
            raise ValueError(f"weights = {weights!r}: expected {num_partitions} positive numbers")
        if clients_per_domain is not None and not _are_counts(clients_per_domain):
            raise ValueError(
                f"clients_per_domain = {clients_per_domain!r}: expected a whole number, or a table "
                "of domains and whole numbers"
            )
        self._column = partition_by
        self._heterogeneity = heterogeneity
        self._clients_per_domain = clients_per_domain
        self._weights = np.ones(num_partitions) if weights is None else np.asarray(weights, float)
        self._names = list(domain_names)
        self._seed = seed

    def _deal(self) -> list[Indices]:
        if self._column not in self.dataset.column_names:
            raise ValueError("the data set has no domains")
        column = np.asarray(self.dataset[self._column])
        domains = np.unique(column)
        home = self._homes([self._name(domain) for domain in domains])
        parts: list[list[Indices]] = [[] for _ in range(self._clients)]
        for place, domain in enumerate(domains):
            generator = np.random.default_rng(derive_seed(self._seed, "domain", int(domain)))
            own = generator.permutation(np.flatnonzero(column == domain))
            kept = round(self._heterogeneity * len(own)) if home[place] else 0
            self._split(own[:kept], home[place], parts)
            self._split(own[kept:], list(range(self._clients)), parts)
        return [np.sort(np.concatenate(part)) for part in parts]

    def _name(self, domain: Any) -> str:
        return self._names[int(domain)] if self._names else str(domain)

    def _split(self, examples: Indices, clients: list[int], parts: list[list[Indices]]) -> None:
        """Split examples over clients by their weights."""
        if not clients:
            return
        shares = np.cumsum(self._weights[clients])
        ends = np.rint(shares / shares[-1] * len(examples)).astype(np.int64)
        for client, part in zip(clients, np.split(examples, ends[:-1]), strict=True):
            parts[client].append(part)

    def _homes(self, names: list[str]) -> list[list[int]]:
        """Return the clients that each domain is home to."""
        if self._clients < len(names) and self._clients_per_domain is None:
            return [[place % self._clients] for place in range(len(names))]
        counts = self._counts(names)
        starts = np.cumsum([0, *counts])
        return [list(range(starts[i], starts[i + 1])) for i in range(len(names))]

    def _counts(self, names: list[str]) -> list[int]:
        given = self._clients_per_domain
        if given is None:
            least, more = divmod(self._clients, len(names))
            return [least + (place < more) for place in range(len(names))]
        if isinstance(given, int):
            given = dict.fromkeys(names, given)
        unknown = [name for name in given if name not in names]
        if unknown:
            raise ValueError(
                f"clients_per_domain names {unknown[0]!r}, which has no training examples here; "
                f"expected some of {', '.join(names)}"
            )
        homeless = [name for name in names if name not in given]
        if homeless:
            raise ValueError(
                f"clients_per_domain = {given}: does not say how many clients "
                f"{homeless[0]!r} has; expected it there, or in data.held_out"
            )
        counts = [given[name] for name in names]
        if sum(counts) != self._clients:
            raise ValueError(
                f"clients_per_domain = {given}: makes {sum(counts)} clients, expected "
                f"{self._clients}"
            )
        return counts


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and isfinite(value)


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _are_weights(values: Any, count: int) -> bool:
    return (
        isinstance(values, Sequence)
        and len(values) == count
        and all(_is_number(value) and value > 0 for value in values)
    )


def _are_counts(given: Any) -> bool:
    return all(map(_is_count, given.values())) if isinstance(given, Mapping) else _is_count(given)
