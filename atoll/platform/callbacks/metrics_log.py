"""What is written to TensorBoard, MLflow and W&B: the same of each round, whatever writes it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from atoll.credentials import tables_without_credentials
from atoll.platform.callbacks.observers import Observer, RoundRecord
from atoll.privacy.kinds import EPSILON

# Columns of a round's clients whose distributions are of interest.
DISTRIBUTIONS = ("loss", "accuracy", "epsilon", "examples", "seconds")
# Those whose mean by domain is.
OF_DOMAINS = ("loss", "accuracy")
CLIENTS, PRIVACY = "clients", "privacy/epsilon"
# What takes no histograms gets these of each.
QUANTILES = {"min": 0.0, "q25": 0.25, "median": 0.5, "q75": 0.75, "max": 1.0}


def flattened(tables: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield dotted keys and values of nested tables."""
    for name, value in tables.items():
        if isinstance(value, Mapping):
            yield from flattened(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


class MetricsLog(Observer, ABC):
    """Writes a step a round, its number the step (an observer).

    Of a round these are written: every metric, those by class with the classes' names; means over
    the clients of each domain; distributions over clients; and the largest epsilon that has been
    spent so far, by a client or under the server's noise.

    Parameters
    ----------
    config : Mapping
        The resolved experiment; its keys are the hyper-parameters. Credentials are taken out.
    classes : Sequence[str]
        Names of the classes.
    """

    def __init__(self, config: Mapping[str, Any], classes: Sequence[str] = ()) -> None:
        self.hyperparameters = dict(flattened(tables_without_credentials(config)))
        self._classes = [name.replace("/", "_") for name in classes]
        self._epsilon: float | None = None

    def on_round(self, record: RoundRecord) -> None:
        """Write a round."""
        scalars = {
            **dict(record.scalars()),
            **dict(self._by_class(record)),
            **dict(_by_domain(record)),
        }
        central = record.train_metrics.get(EPSILON)
        spent = [e for e in (*record.clients.get("epsilon", ()), central) if e is not None]
        if spent:
            self._epsilon = max([*spent, *([] if self._epsilon is None else [self._epsilon])])
        if self._epsilon is not None:
            scalars[PRIVACY] = self._epsilon
        self.write(record.server_round, scalars, dict(_distributions(record)))

    @abstractmethod
    def write(
        self, step: int, scalars: Mapping[str, float], histograms: Mapping[str, np.ndarray]
    ) -> None:
        """Write numbers, and values over clients, by ``GROUP/NAME``."""

    def _by_class(self, record: RoundRecord) -> Iterator[tuple[str, float]]:
        for group, metrics in record.groups.items():
            for name, value in metrics.items():
                if isinstance(value, list):
                    of = self._classes if len(self._classes) == len(value) else range(len(value))
                    for label, each in zip(of, value, strict=True):
                        if each is not None:
                            yield f"{group}/{name}/{label}", float(each)


def quantiles(histograms: Mapping[str, np.ndarray]) -> Iterator[tuple[str, float]]:
    """Yield quantiles of distributions over clients, named after them."""
    for name, values in histograms.items():
        for label, found in zip(
            QUANTILES, np.quantile(values, list(QUANTILES.values())), strict=True
        ):
            yield f"{name}/{label}", float(found)


def _distributions(record: RoundRecord) -> Iterator[tuple[str, np.ndarray]]:
    """Yield the values of a round's clients that replied, by phase and column."""
    for column in DISTRIBUTIONS:
        found = defaultdict(list)
        for phase, value in _replied(record, "phase", column):
            if value is not None and np.isfinite(value):
                found[phase].append(float(value))
        for phase, values in found.items():
            yield f"{CLIENTS}/{phase}/{column}", np.asarray(values)


def _by_domain(record: RoundRecord) -> Iterator[tuple[str, float]]:
    """Yield means over the clients of each domain, weighted by their examples."""
    for column in OF_DOMAINS:
        found = defaultdict(list)
        for phase, domain, examples, value in _replied(
            record, "phase", "domain", "examples", column
        ):
            if domain is not None and value is not None and examples:
                found[phase, domain].append((examples, value))
        for (phase, domain), pairs in found.items():
            weights, values = zip(*pairs, strict=True)
            mean = float(np.average(values, weights=weights))
            yield f"{CLIENTS}/{phase}/{column}/{domain.replace('/', '_')}", mean


def _replied(record: RoundRecord, *columns: str) -> Iterator[tuple[Any, ...]]:
    """Yield these columns of each client that replied; nothing if the round lacks one of them."""
    clients = record.clients
    if all(name in clients for name in ("status", *columns)):
        for status, *values in zip(*(clients[n] for n in ("status", *columns)), strict=True):
            if status == "ok":
                yield tuple(values)
