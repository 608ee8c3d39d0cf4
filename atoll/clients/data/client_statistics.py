"""Statistics of tables and targets that a federation computes: sums over its clients.

Numbers are standardised by the mean and deviation of the clients' training examples, and a category
is known if one of these has it. Clients send sums alone (:class:`FirstSums`, then
:class:`CenteredSums`), and only their totals are used: what is made of a client's examples depends
on other clients' through these.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable
from dataclasses import dataclass
from functools import reduce
from operator import add

import numpy as np
from numpy.typing import NDArray

from atoll.clients.data.files.cache import cache_root
from atoll.clients.data.files.dataset import Dataset, write_about
from atoll.clients.data.inputs.kinds import AnyInputs
from atoll.clients.data.inputs.table import CategoryColumn, Column, NumberColumn, TableInputs
from atoll.clients.data.label_noise import link_examples
from atoll.clients.data.partitioning.partition import Partition, partition_dataset
from atoll.clients.settings import DataSettings
from atoll.clients.tasks.kinds import AnyTask
from atoll.clients.tasks.regression import Regression
from atoll.files.atomic import appearing

Indices = NDArray[np.int64]


@dataclass(frozen=True)
class FirstSums:
    """What a client tells first of its training examples.

    Attributes
    ----------
    examples : int
        How many it has.
    counts, totals : NDArray
        Of each number column: how many numbers are there, and their sum.
    categories : dict[int, NDArray[int64]]
        By the place of a category column: how many examples have each category.
    target : float
        The sum of the targets, of regressions that standardise them.
    """

    examples: int
    counts: NDArray[np.int64]
    totals: NDArray[np.float64]
    categories: dict[int, NDArray[np.int64]]
    target: float

    def __add__(self, other: FirstSums) -> FirstSums:
        return FirstSums(
            self.examples + other.examples,
            self.counts + other.counts,
            self.totals + other.totals,
            {place: counts + other.categories[place] for place, counts in self.categories.items()},
            self.target + other.target,
        )


@dataclass(frozen=True)
class CenteredSums:
    """What a client tells next: sums of squared differences to the means, now known.

    Attributes
    ----------
    squares : NDArray[float64]
        Of each number column.
    target : float
        Of the targets.
    """

    squares: NDArray[np.float64]
    target: float

    def __add__(self, other: CenteredSums) -> CenteredSums:
        return CenteredSums(self.squares + other.squares, self.target + other.target)


def needs_statistics(dataset: Dataset) -> bool:
    """Tell whether a data set's inputs or targets are standardised by clients' statistics."""
    return isinstance(dataset.inputs, TableInputs) or _is_standardised(dataset.task)


def fit_to_clients(
    dataset: Dataset, partition: Partition, test_fraction: float, seed: int
) -> Dataset:
    """Return a data set with the statistics of its clients.

    Parameters
    ----------
    dataset : Dataset
        The data set; one of images or tokens with classes is returned as it is.
    partition : Partition
        Its clients.
    test_fraction, seed
        As for :meth:`Partition.split`: a client's own test examples are not counted.

    Returns
    -------
    Dataset
        In the cache, with the same files of examples.

    Examples
    --------
    >>> from atoll.clients import DataSettings, fit_to_clients, load_dataset, partition_dataset
    >>> digits = load_dataset("digits")
    >>> settings = DataSettings(dataset="digits", clients=10)
    >>> partition = partition_dataset(digits, settings, seed=0)
    >>> fit_to_clients(digits, partition, test_fraction=0.0, seed=0) is digits
    True
    """
    if not needs_statistics(dataset):
        return dataset
    clients = range(len(partition))

    def training(client: int) -> Indices:
        return partition.split(client, test_fraction, seed)[0]

    first = _total(first_sums(dataset, training(client)) for client in clients)
    means = np.divide(first.totals, np.maximum(first.counts, 1))
    center = first.target / max(first.examples, 1)
    centered = reduce(
        add, (centered_sums(dataset, training(client), means, center) for client in clients)
    )
    inputs = fitted_inputs(dataset.inputs, first, means, centered)
    task = fitted_task(dataset.task, first, center, centered)
    if inputs == dataset.inputs and task == dataset.task:
        return dataset
    return _written(dataset, inputs, task)


def fitted(dataset: Dataset, settings: DataSettings, seed: int) -> Dataset:
    """Return a data set with the statistics of the clients that ``[data]`` and a run's seed make.

    One that needs none is returned as it is, and not dealt.
    """
    if not needs_statistics(dataset):
        return dataset
    partition = partition_dataset(dataset, settings, seed)
    return fit_to_clients(dataset, partition, settings.client_test_fraction, seed)


def first_sums(dataset: Dataset, indices: Indices) -> FirstSums:
    """Return what a client with these training examples tells first."""
    rows, numbers, categories = _columns_of(dataset, indices)
    return FirstSums(
        len(indices),
        (~np.isnan(numbers)).sum(0),
        np.nansum(numbers, axis=0),
        {
            place: np.bincount(rows[:, place].astype(np.int64), minlength=len(column.categories))
            for place, column in categories
        },
        float(_targets(dataset, indices).sum()),
    )


def centered_sums(
    dataset: Dataset, indices: Indices, means: NDArray[np.float64], center: float
) -> CenteredSums:
    """Return what a client with these training examples tells when the means are known."""
    _, numbers, _ = _columns_of(dataset, indices)
    squares = np.nansum(np.square(numbers - means), axis=0)
    return CenteredSums(squares, float(np.square(_targets(dataset, indices) - center).sum()))


def fitted_inputs(
    inputs: AnyInputs, first: FirstSums, means: NDArray[np.float64], centered: CenteredSums
) -> AnyInputs:
    """Return inputs with the statistics that the clients' sums give."""
    if not isinstance(inputs, TableInputs):
        return inputs
    deviations = np.sqrt(centered.squares / np.maximum(first.counts, 1))
    place_of_number = 0
    columns: list[Column] = []
    for place, column in enumerate(inputs.columns):
        if isinstance(column, CategoryColumn):
            known = np.flatnonzero(first.categories[place])
            columns.append(column.model_copy(update={"known": tuple(known.tolist())}))
            continue
        number, place_of_number = place_of_number, place_of_number + 1
        has_missing = bool(first.counts[number] < first.examples)
        mean, deviation = column.mean, column.std
        if not column.is_fixed:
            mean = float(means[number])
            deviation = _deviation(float(deviations[number]), mean)
        fitted = {"mean": mean, "std": deviation, "has_missing": has_missing}
        columns.append(column.model_copy(update=fitted))
    return inputs.model_copy(update={"columns": tuple(columns)})


def fitted_task(task: AnyTask, first: FirstSums, center: float, centered: CenteredSums) -> AnyTask:
    """Return a task with the statistics that the clients' sums give."""
    if not isinstance(task, Regression) or not _is_standardised(task):
        return task
    deviation = math.sqrt(centered.target / max(first.examples, 1))
    return task.model_copy(update={"center": center, "scale": _deviation(deviation, center)})


def _deviation(deviation: float, mean: float) -> float:
    """Return what a column is divided by: 1 where it is one value, up to rounding."""
    return deviation if deviation > 1e-12 * abs(mean) and deviation > 0 else 1.0


def _total(sums: Iterable[FirstSums]) -> FirstSums:
    return reduce(add, sums)


def _is_standardised(task: AnyTask) -> bool:
    return isinstance(task, Regression) and task.loss != "poisson"


def _targets(dataset: Dataset, indices: Indices) -> NDArray[np.float64]:
    if not _is_standardised(dataset.task):
        return np.zeros(0)
    return dataset.train.labels[indices].astype(np.float64)


def _columns_of(
    dataset: Dataset, indices: Indices
) -> tuple[NDArray[np.float64], NDArray[np.float64], list[tuple[int, CategoryColumn]]]:
    """Return rows, their number columns, and the category columns with their places."""
    if not isinstance(dataset.inputs, TableInputs):
        return np.zeros((0, 0)), np.zeros((0, 0)), []
    rows = dataset.train.inputs[indices]
    columns = list(enumerate(dataset.inputs.columns))
    numbers = rows[:, [place for place, column in columns if isinstance(column, NumberColumn)]]
    return rows, numbers, [(p, c) for p, c in columns if isinstance(c, CategoryColumn)]


def _written(dataset: Dataset, inputs: AnyInputs, task: AnyTask) -> Dataset:
    """Return the data set with other inputs and another task, in a folder of the cache."""
    described = dataset.fingerprint + inputs.model_dump_json() + task.model_dump_json()
    digest = hashlib.sha256(described.encode()).hexdigest()[:16]
    target = cache_root() / "datasets" / f"{dataset.directory.name}-clients-{digest}"
    if not (target / "dataset.json").exists():
        with appearing(target) as folder:
            link_examples(dataset.directory, folder)
            write_about(dataset, inputs, task, folder)
    return Dataset(target)
