"""Domains of an experiment: which are held out, and what is evaluated on which."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from atoll.clients.data.files.dataset import Dataset, Split
from atoll.clients.tasks.classification import Classification
from atoll.error_messages import closest
from atoll.errors import InvalidExperimentError

logger = logging.getLogger("atoll")

# Classes that a warning names.
SHOWN = 3

Indices = NDArray[np.int64]


@dataclass(frozen=True)
class TestSets:
    """The server's test examples, by domain.

    Attributes
    ----------
    names : tuple[str, ...]
        The domains; one empty name for a data set without domains.
    indices : tuple[Indices, ...]
        Which test examples are of each.
    main : tuple[str, ...]
        The domains that the run is judged by: those held out; or, if none is, those with training
        examples.
    validation : tuple[str, ...]
        The training domains' names, if there are held-out ones: their test examples are for
        training-domain validation.
    """

    names: tuple[str, ...]
    indices: tuple[Indices, ...]
    main: tuple[str, ...]
    validation: tuple[str, ...] = ()


def training_domains(dataset: Dataset, held_out: Sequence[str] = ()) -> tuple[str, ...]:
    """Return the domains that clients can have: with training examples, and not held out."""
    if dataset.train.domains is None:
        return ()
    present = np.unique(dataset.train.domains)
    return tuple(dataset.domains[d] for d in present if dataset.domains[d] not in held_out)


def check_held_out(dataset: Dataset, held_out: Sequence[str]) -> None:
    """Refuse held-out domains that the data set does not have, or that leave nothing to train on.

    Raises
    ------
    InvalidExperimentError
        With the key, the value and what was expected.
    """
    for domain in held_out:
        if domain not in dataset.domains:
            hint = closest(domain, dataset.domains, none="it has none")
            raise InvalidExperimentError(
                f"data.held_out = {domain!r}: {dataset.name} has no such domain; {hint}"
            )
        if list(held_out).count(domain) > 1:
            raise InvalidExperimentError(
                f"data.held_out = {list(held_out)}: names {domain!r} twice; expected it once"
            )
    if held_out and not training_domains(dataset, held_out):
        raise InvalidExperimentError(
            f"data.held_out = {list(held_out)}: no domain is left to train on; expected at least "
            f"one of {', '.join(training_domains(dataset))} in none"
        )


def trainable(dataset: Dataset, held_out: Sequence[str]) -> Indices:
    """Return the training examples that are of no held-out domain."""
    everything = np.arange(len(dataset.train))
    if not held_out or dataset.train.domains is None:
        return everything
    hidden = [dataset.domains.index(domain) for domain in held_out]
    return everything[~np.isin(dataset.train.domains, hidden)]


def test_sets(dataset: Dataset, held_out: Sequence[str], limit: int | None) -> TestSets:
    """Return the server's test examples.

    Parameters
    ----------
    dataset : Dataset
        The data set.
    held_out : Sequence[str]
        Domains that no client has.
    limit : int or None
        At most so many of each domain: the first ones, or evenly spaced ones where examples lie
        sorted by class or by what they show.
    """
    if dataset.test.domains is None or not dataset.domains:
        everything = np.arange(len(dataset.test))
        return TestSets(("",), (_at_most(limit, everything, dataset.test),), ("",))
    indices = {
        name: _at_most(limit, np.flatnonzero(dataset.test.domains == place), dataset.test)
        for place, name in enumerate(dataset.domains)
    }
    names = tuple(name for name, found in indices.items() if len(found))
    training = tuple(n for n in training_domains(dataset, held_out) if n in names)
    return TestSets(
        names,
        tuple(indices[name] for name in names),
        tuple(n for n in names if n in held_out) if held_out else training or names,
        training if held_out else (),
    )


def _at_most(limit: int | None, found: Indices, split: Split) -> Indices:
    if limit is None or len(found) <= limit:
        return found
    if split.groups is not None or is_sorted(split.labels[found]):
        return found[np.arange(limit) * len(found) // limit]
    return found[:limit]


def is_sorted(labels: NDArray[Any]) -> bool:
    """Tell whether examples lie sorted by their label; those with several numbers never do."""
    return labels.ndim == 1 and bool((np.diff(labels) >= 0).all())


def warn_of_unequal_classes(dataset: Dataset, held_out: Sequence[str]) -> None:
    """Say which classes are missing in a training domain, or in all of them, and what that does."""
    if not isinstance(dataset.task, Classification):
        return
    if dataset.train.domains is None or dataset.test.domains is None:
        return
    training = {name: _classes_of(dataset, "train", name) for name in dataset.domains}
    training = {name: training[name] for name in training_domains(dataset, held_out)}
    everywhere = set().union(*training.values())
    for name, found in training.items():
        if missing := everywhere - found:
            logger.warning(
                "domain %r has no training examples of %s, which another domain has: alignment "
                "penalties compare the domains' statistics over different classes, so they do not "
                "vanish even for a predictor that is right in every domain (a federated run still "
                "equals the centralised one)",
                name,
                _named(dataset, missing),
            )
    for name in dataset.domains:
        if unknown := _classes_of(dataset, "test", name) - everywhere:
            logger.warning(
                "domain %r is tested on %s, of which no training domain has an example: whatever "
                "the method, they are counted as wrong",
                name,
                _named(dataset, unknown),
            )


def _classes_of(dataset: Dataset, split: str, domain: str) -> set[int]:
    own: Split = getattr(dataset, split)
    return set(np.unique(own.labels[own.domains == dataset.domains.index(domain)]).tolist())


def _named(dataset: Dataset, labels: set[int]) -> str:
    named = ", ".join(repr(dataset.classes[label]) for label in sorted(labels)[:SHOWN])
    more = len(labels) - SHOWN
    return named if more <= 0 else f"{named} and {more} more classes"
