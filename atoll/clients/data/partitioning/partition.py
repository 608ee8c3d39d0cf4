"""Partition of examples into clients by flwr-datasets' partitioners, computed once and cached.

The partitioners see labels, domains and groups, never images. Their result is two arrays on disk
that every worker maps, so a second start needs neither the partitioner nor its library.
"""

from __future__ import annotations

import hashlib
import logging
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from atoll.clients.data.files.cache import cache_root
from atoll.clients.data.files.dataset import Dataset, Split
from atoll.clients.data.partitioning.domains import check_held_out, is_sorted, trainable
from atoll.clients.data.partitioning.partitioners import (
    NAME,
    PARTITIONERS,
    check_count,
    check_partitioner,
    load_all,
    make_partitioner,
    own_function,
)
from atoll.clients.data.partitioning.user_partition import deal_by_function
from atoll.clients.settings import DataSettings
from atoll.clients.tasks.multi_label import MultiLabel
from atoll.clients.tasks.next_token import NextToken
from atoll.clients.tasks.regression import Regression
from atoll.errors import DataUnavailableError, InvalidExperimentError
from atoll.files.atomic import appearing
from atoll.files.digests import sha256_of_json
from atoll.randomness import derive_seed
from atoll.user_code.source_identity import source_hashes

logger = logging.getLogger("atoll")

# They deal runs of examples, as these lie in the data set.
IN_RUNS = {"iid", "size", "linear", "square", "exponential"}
# Parts of a number's range, each with as many examples.
STRATA = 10
# Bump to forget partitions that older code has cached.
FORMAT = 2


class Partition:
    """The examples of every client, as memory-mapped arrays.

    Parameters
    ----------
    directory : Path
        The folder that :func:`partition_dataset` wrote.

    Examples
    --------
    >>> from atoll.clients import DataSettings, load_dataset, partition_dataset
    >>> settings = DataSettings(dataset="digits", clients=10)
    >>> partition = partition_dataset(load_dataset("digits"), settings, seed=0)
    >>> train, test = partition.split(client=0, test_fraction=0.25, seed=0)
    >>> len(partition.indices(0)), len(train), len(test)
    (144, 108, 36)
    """

    def __init__(self, directory: Path) -> None:
        self.directory = Path(directory)
        try:
            self._offsets = np.load(self.directory / "offsets.npy", mmap_mode="r")
            self._indices = np.load(self.directory / "indices.npy", mmap_mode="r")
        except (OSError, ValueError) as error:
            raise DataUnavailableError(f"{directory}: is not a partition ({error})") from error

    def __len__(self) -> int:
        return len(self._offsets) - 1

    @cached_property
    def sizes(self) -> NDArray[np.int64]:
        """Examples per client."""
        sizes: NDArray[np.int64] = np.diff(self._offsets)
        return sizes

    def indices(self, client: int) -> NDArray[np.int64]:
        """Return which training examples client ``client`` (from 0) has."""
        return np.asarray(self._indices[self._offsets[client] : self._offsets[client + 1]])

    def split(
        self, client: int, test_fraction: float, seed: int
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return a client's examples for training and for its own test.

        Parameters
        ----------
        client : int
            The client, from 0.
        test_fraction : float
            The share of its examples held out, rounded; at least one stays for training.
        seed : int
            Decides which.
        """
        indices = self.indices(client)
        held_out = min(round(test_fraction * len(indices)), max(len(indices) - 1, 0))
        if held_out == 0:
            return indices, indices[:0]
        generator = np.random.default_rng(derive_seed(seed, "client test", client))
        order = generator.permutation(len(indices))
        return indices[np.sort(order[held_out:])], indices[np.sort(order[:held_out])]

    def __reduce__(self) -> tuple[Any, ...]:
        return Partition, (self.directory,)


def partition_dataset(dataset: Dataset, settings: DataSettings, seed: int) -> Partition:
    """Deal the training examples of ``dataset`` to clients.

    Parameters
    ----------
    dataset : Dataset
        The data set.
    settings : DataSettings
        ``[data]``: the number of clients, the partitioner and its arguments.
    seed : int
        The run's seed.

    Raises
    ------
    InvalidExperimentError
        If there are more clients than examples, a held-out domain is unknown or given to a client,
        or the partitioner refuses its arguments.

    Examples
    --------
    >>> from atoll.clients import DataSettings, load_dataset, partition_dataset
    >>> settings = DataSettings(dataset="digits", clients=10)
    >>> partition = partition_dataset(load_dataset("digits"), settings, seed=0)
    >>> len(partition), int(partition.sizes.sum())
    (10, 1437)
    """
    check_held_out(dataset, settings.held_out)
    check_home_domains(settings)
    examples = trainable(dataset, settings.held_out)
    available = min(settings.train_examples or len(examples), len(examples))
    if settings.clients > available:
        raise InvalidExperimentError(
            f"data.clients = {settings.clients}: there are only {available} training examples in "
            f"{dataset.name}; expected at most as many clients"
        )
    key = _key(dataset, settings, seed)
    dealt = None
    if ":" in settings.partition.name and not source_hashes([settings.partition.name]):
        # Code without a file cannot be told from other code: what it deals is the key.
        dealt = deal(dataset, examples, settings, seed)
        key = hashlib.sha256(key.encode() + dealt[0].tobytes() + dealt[1].tobytes()).hexdigest()
    target = cache_root() / "partitions" / key
    if not (target / "indices.npy").exists():
        sizes, indices = dealt or deal(dataset, examples, settings, seed)
        with appearing(target) as folder:
            np.save(folder / "offsets.npy", np.concatenate([[0], np.cumsum(sizes)]))
            np.save(folder / "indices.npy", indices.astype(np.int64))
    partition = Partition(target)
    empty = int((partition.sizes == 0).sum())
    if empty:
        logger.warning(
            "data.partition = %r leaves %d of %d clients without examples: they train on nothing",
            settings.partition.name,
            empty,
            settings.clients,
        )
    return partition


def class_histogram(
    labels: NDArray[np.int64], partition: Partition, classes: int, clients: int | None = None
) -> NDArray[np.int64]:
    """Return how many examples of each class each client has: shape (clients, classes).

    Of the first ``clients`` clients, by default of all.

    Examples
    --------
    >>> import numpy as np
    >>> from atoll.clients import DataSettings, PartitionSettings
    >>> from atoll.clients import class_histogram, load_dataset, partition_dataset
    >>> digits = load_dataset("digits")
    >>> skewed = PartitionSettings(name="dirichlet", alpha=0.1)
    >>> settings = DataSettings(dataset="digits", clients=5, partition=skewed)
    >>> partition = partition_dataset(digits, settings, seed=0)
    >>> counts = class_histogram(digits.train.labels, partition, classes=10)
    >>> counts.shape, bool((counts.sum(1) == partition.sizes).all())
    ((5, 10), True)
    """
    chosen = range(len(partition))[:clients]
    return np.stack([np.bincount(labels[partition.indices(c)], minlength=classes) for c in chosen])


def _key(dataset: Dataset, settings: DataSettings, seed: int) -> str:
    described = {
        "format": FORMAT,
        "dataset": dataset.fingerprint,
        "seed": seed,
        "clients": settings.clients,
        "held_out": sorted(settings.held_out),
        "partition": settings.partition.model_dump(mode="json"),
        "train_examples": settings.train_examples,
        "examples_per_client": settings.examples_per_client,
    }
    if ":" in settings.partition.name:
        described["source"] = source_hashes([settings.partition.name])
    return sha256_of_json(described)[:32]


def check_home_domains(settings: DataSettings) -> None:
    """Refuse a held-out domain that a client is to have.

    Raises
    ------
    InvalidExperimentError
        With the key, the value and what was expected.
    """
    homes = settings.partition.arguments.get("clients_per_domain")
    given = homes if isinstance(homes, dict) else {}
    for domain in settings.held_out:
        if given.get(domain):
            raise InvalidExperimentError(
                f"data.partition.clients_per_domain = {homes}: gives clients the domain "
                f"{domain!r}, which data.held_out keeps from them; expected it in one of the two"
            )


def chosen_examples(dataset: Dataset, settings: DataSettings, seed: int) -> NDArray[np.int64]:
    """Return the training examples that are dealt: at most ``train_examples``, none held out."""
    return _drawn(trainable(dataset, settings.held_out), settings, seed)


def _drawn(examples: NDArray[np.int64], settings: DataSettings, seed: int) -> NDArray[np.int64]:
    if settings.train_examples is None or settings.train_examples >= len(examples):
        return examples
    generator = np.random.default_rng(derive_seed(seed, "train examples"))
    drawn: NDArray[np.int64] = generator.choice(examples, settings.train_examples, replace=False)
    return np.sort(drawn)


def deal(
    dataset: Dataset, examples: NDArray[np.int64], settings: DataSettings, seed: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return how many examples each client has, and all clients' examples, one after another."""
    split, chosen = dataset.train, _drawn(examples, settings, seed)
    if check_partitioner(settings.partition.name) in IN_RUNS and _is_ordered(split):
        chosen = np.random.default_rng(derive_seed(seed, "shuffle")).permutation(chosen)
    columns = {"index": chosen, "label": _strata(dataset)[chosen]}
    if split.domains is not None:
        columns["domain"] = split.domains[chosen]
    if split.groups is not None:
        columns["group"] = split.groups[chosen]
    function = own_function(settings.partition.name)
    if function is not None:
        dealt = derive_seed(seed, "partition") % 2**32
        owned = deal_by_function(function, columns, settings, dealt)
        return _joined(_limit([chosen[part] for part in owned], settings, seed))
    partitioner = make_partitioner(settings, seed, list(columns), dataset.domains)
    if type(partitioner) is PARTITIONERS.find("iid", NAME):
        sizes = _even_sizes(len(chosen), partitioner.num_partitions)
        check_count(len(sizes), settings)
        if settings.examples_per_client is None:
            return sizes, chosen
        parts = np.split(chosen, np.cumsum(sizes)[:-1])
    else:
        parts = load_all(partitioner, columns, settings)
    return _joined(_limit(parts, settings, seed))


def _joined(parts: list[NDArray[np.int64]]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    sizes = np.fromiter(map(len, parts), np.int64, len(parts))
    return sizes, np.concatenate(parts)


def _is_ordered(split: Split) -> bool:
    """Tell whether examples lie sorted, by domain or by label: runs of them are not alike then."""
    return split.domains is not None or is_sorted(split.labels)


def _strata(dataset: Dataset) -> NDArray[np.int64]:
    """Return by what partitioners that look at labels deal: int64, a number an example.

    Classes; deciles of a number; of several labels the first that an example has (or their
    number, without any); of sequences nothing.
    """
    labels, task = dataset.train.labels, dataset.task
    if isinstance(task, Regression):
        cuts = np.quantile(labels, np.arange(1, STRATA) / STRATA) if len(labels) else []
        return np.searchsorted(cuts, labels, side="right").astype(np.int64)
    if isinstance(task, MultiLabel):
        first = labels.argmax(1)
        chosen: NDArray[np.int64] = np.where(labels.any(1), first, labels.shape[1]).astype(np.int64)
        return chosen
    if isinstance(task, NextToken):
        return np.zeros(len(labels), np.int64)
    classes: NDArray[np.int64] = labels
    return classes


def _even_sizes(examples: int, clients: int) -> NDArray[np.int64]:
    """Return the sizes of ``IidPartitioner``'s parts: runs of examples, longer ones first.

    The partitioner itself makes a table a client, too many for a population of millions.
    """
    sizes = np.full(clients, examples // clients, np.int64)
    sizes[: examples % clients] += 1
    return sizes


def _limit(
    parts: list[NDArray[np.int64]], settings: DataSettings, seed: int
) -> list[NDArray[np.int64]]:
    wanted = settings.examples_per_client
    if wanted is None:
        return parts
    limited = []
    for client, part in enumerate(parts):
        if len(part) < wanted:
            raise InvalidExperimentError(
                f"data.examples_per_client = {wanted}: client {client} has only {len(part)}"
            )
        generator = np.random.default_rng(derive_seed(seed, "examples per client", client))
        limited.append(np.sort(generator.choice(part, wanted, replace=False)))
    return limited
