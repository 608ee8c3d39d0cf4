"""A federation: the data, clients and strategy that an experiment determines."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import numpy as np
from flwr.app import ArrayRecord
from flwr.serverapp.strategy import Strategy

from atoll.clients.apps.client_app import ClientSpec
from atoll.clients.apps.root_training import RootTraining
from atoll.clients.arrays.travelling import frozen_sha256
from atoll.clients.data.files.dataset import Dataset
from atoll.clients.data.partitioning.domains import training_domains
from atoll.clients.data.partitioning.partition import Partition, class_histogram
from atoll.clients.tasks.classification import Classification
from atoll.files.recorded import write_recorded_json
from atoll.platform.config.experiment import Experiment
from atoll.platform.config.poisoning import poisoned_client
from atoll.platform.config.strategy_wrappers import nested_strategies
from atoll.platform.run_directory.run_files import PARTITION
from atoll.platform.runs.checks.preflight import check_components
from atoll.platform.runs.components import ComponentCache, Components
from atoll.strategies.robust.fl_trust import FLTrust

# Clients whose class histograms are kept.
MAX_HISTOGRAMS = 10_000


@dataclass(frozen=True)
class Federation:
    """Data, clients and strategy of a run, determined by the experiment, without the cluster."""

    dataset: Dataset
    partition: Partition
    spec: ClientSpec
    strategy: Strategy
    initial_arrays: ArrayRecord

    def on(self, device: str) -> Federation:
        """Return the federation with the clients' models on that device: "cpu" or "cuda"."""
        return replace(self, spec=replace(self.spec, device=device))


def prepare(experiment: Experiment, cache: ComponentCache | None = None) -> Federation:
    """Make and check an experiment's data, model and strategy; clients are on the CPU.

    Parameters
    ----------
    experiment : Experiment
        The experiment.
    cache : ComponentCache, optional
        What others like it were made of.

    Raises
    ------
    AtollError
        If the data cannot be had, a name or an argument is wrong, or the experiment cannot be run
        (:func:`~atoll.platform.runs.checks.preflight.check_components`).
    """
    made = Components.of(experiment, cache)
    check_components(made)
    spec = ClientSpec(
        dataset=made.dataset.directory,
        partition=made.partition.directory,
        model=experiment.model,
        client=poisoned_client(made.experiment, len(made.partition), made.dataset),
        num_rounds=experiment.run.rounds,
        seed=experiment.run.seed,
        client_test_fraction=experiment.data.client_test_fraction,
        frozen=frozen_sha256(made.model),
    )
    for strategy in nested_strategies(made.strategy):
        if isinstance(strategy, FLTrust):
            strategy.train_on_root = RootTraining(spec, strategy.root_examples)
    initial_arrays = spec.arrays_of(made.model).read()
    return Federation(made.dataset, made.partition, spec, made.strategy, initial_arrays)


def domain_of(federation: Federation) -> Callable[[int], str | None]:
    """Return the domain of a partition, where all of its examples are of one domain."""
    dataset, partition = federation.dataset, federation.partition
    domains = dataset.train.domains
    if domains is None:
        return lambda client: None

    @cache
    def name_of(client: int) -> str | None:
        found = np.unique(domains[partition.indices(client)])
        return dataset.domains[found[0]] if len(found) == 1 else None

    return name_of


def write_partition(directory: Path, federation: Federation, held_out: Sequence[str]) -> None:
    """Keep clients' class histograms, the domains, what inputs are, and the task, for readers.

    Of a large federation the histograms of the first clients only: no figure shows a million.
    """
    dataset, partition = federation.dataset, federation.partition
    histogram = _histogram(dataset, partition)
    write_recorded_json(
        directory / PARTITION,
        {
            "clients": list(range(len(histogram))),
            "classes": list(dataset.classes),
            "domains": list(dataset.domains),
            "training_domains": training_domains(dataset, held_out),
            "held_out": sorted(held_out),
            "histogram": histogram,
            "inputs": dataset.inputs.model_dump(mode="json"),
            "task": dataset.task.model_dump(mode="json"),
        },
    )


def _histogram(dataset: Dataset, partition: Partition) -> list[list[int]]:
    """Return how many examples of each class each client has; without classes, no numbers."""
    shown = min(len(partition), MAX_HISTOGRAMS)
    if not isinstance(dataset.task, Classification):
        return [[]] * shown
    classes = len(dataset.classes)
    counts: list[list[int]] = class_histogram(
        dataset.train.labels, partition, classes, shown
    ).tolist()
    return counts
