"""The parts of a run that an experiment determines: data, clients and strategy."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from flwr.app import ArrayRecord
from flwr.serverapp.strategy import FedXgbBagging, Strategy
from torch import nn

from atoll.clients.apps.client_app import ClientSpec
from atoll.clients.arrays.model_arrays import ModelArrays
from atoll.clients.data.catalog import check_options, load_dataset
from atoll.clients.data.image_dataset import ImageDataset
from atoll.clients.data.partitioning.domains import training_domains, warn_of_unequal_classes
from atoll.clients.data.partitioning.partition import Partition, class_histogram, partition_dataset
from atoll.clients.data.partitioning.partitioners import check_partition
from atoll.clients.models.model_arguments import check_arguments
from atoll.clients.models.model_building import build_model, warn_of_other_normalization
from atoll.clients.mods import check_mods
from atoll.clients.training.vectorized_training import obstacle_to_vectorizing
from atoll.errors import InvalidExperimentError
from atoll.files.recorded import write_recorded_json
from atoll.platform.callbacks.mlflow_log import check_installed
from atoll.platform.config.client_mods import check_mods_of, named_mods, with_references
from atoll.platform.config.combinations import warn_of_combinations
from atoll.platform.config.estimate import warn_of_a_long_run
from atoll.platform.config.experiment import Experiment
from atoll.platform.config.privacy import warn_of_privacy
from atoll.platform.run_directory.run_files import PARTITION
from atoll.randomness import derive_seed
from atoll.strategies import build_strategy
from atoll.strategies.alignment.alignment_checks import check_federation
from atoll.strategies.layerwise.layerwise_checks import check_layerwise

# Clients whose class histograms are kept.
MAX_HISTOGRAMS = 10_000
# Parts of other experiments that are kept: a model may be large.
KEPT_PARTS = 16


@dataclass(frozen=True)
class Federation:
    """The parts of a run that an experiment determines, without the cluster."""

    dataset: ImageDataset
    partition: Partition
    spec: ClientSpec
    strategy: Strategy
    initial_arrays: ArrayRecord

    def on(self, device: str) -> Federation:
        """Return the federation with the clients' models on that device: "cpu" or "cuda"."""
        return replace(self, spec=replace(self.spec, device=device))


def prepare(experiment: Experiment, parts: Parts | None = None) -> Federation:
    """Make an experiment's data, model and strategy; clients are on the CPU (:meth:`on`).

    Parameters
    ----------
    experiment : Experiment
        The experiment.
    parts : Parts, optional
        What others like it were made of.

    Raises
    ------
    AtollError
        If the data cannot be had, or a name or an argument is wrong.
    """
    run, data = experiment.run, experiment.data
    strategy = build_strategy(experiment.strategy.name, experiment.strategy.arguments)
    parts = parts or Parts()
    dataset, partition, model = parts.of(experiment)
    warn_of_unequal_classes(dataset, data.held_out)
    if experiment.client.vectorize is True:
        obstacle = parts.obstacle(experiment, model)
        if obstacle is not None:
            raise InvalidExperimentError(
                f"client.vectorize = True: model.name = {experiment.model.name!r}: {obstacle}; "
                "expected 'auto' or false"
            )
    warn_of_other_normalization(model, dataset)
    warn_of_a_long_run(experiment, model, dataset.image_shape, partition.sizes)
    check_federation(strategy, model, dataset, partition)
    client = with_references(experiment.client)
    check_mods(client.mods, model)
    warn_of_combinations(strategy, named_mods(experiment.client))
    warn_of_privacy(client, strategy, partition.sizes, run.rounds)
    if experiment.layers is None:
        check_layerwise(strategy, experiment.model, experiment.client, model, data.clients)
    spec = ClientSpec(
        dataset=dataset.directory,
        partition=partition.directory,
        model=experiment.model,
        client=client,
        num_rounds=run.rounds,
        seed=run.seed,
        client_test_fraction=data.client_test_fraction,
    )
    return Federation(dataset, partition, spec, strategy, ModelArrays(model).read())


class Parts:
    """The data sets, partitions and models of experiments: the last ones are kept."""

    def __init__(self) -> None:
        self._made: dict[tuple[object, ...], Any] = {}

    def of(self, experiment: Experiment) -> tuple[ImageDataset, Partition, nn.Module]:
        """Return an experiment's data set, partition and model."""
        data, seed = experiment.data, experiment.run.seed
        source = (data.dataset, data.path, data.options)
        dataset = self._once(("data", repr(source), seed), load_dataset, *source, seed)
        dealt = ("partition", repr(data), seed)
        partition = self._once(dealt, partition_dataset, dataset, data, seed)
        arguments = (experiment.model, dataset.image_shape, len(dataset.classes))
        initial = derive_seed(seed, "initial parameters")
        model = self._once(("model", repr(arguments), seed), build_model, *arguments, initial)
        return dataset, partition, model

    def obstacle(self, experiment: Experiment, model: nn.Module) -> str | None:
        """Return why clients of an experiment's model cannot train at once, or None."""
        shape = self.of(experiment)[0].image_shape
        key = ("obstacle", repr(experiment.model), shape)
        found: str | None = self._once(key, obstacle_to_vectorizing, model, shape)
        return found

    def _once(self, key: tuple[object, ...], make: Callable[..., Any], *arguments: Any) -> Any:
        if key not in self._made:
            if len(self._made) == KEPT_PARTS:
                del self._made[next(iter(self._made))]
            self._made[key] = make(*arguments)
        return self._made[key]


def check(experiment: Experiment) -> None:
    """Refuse, in a second, what can be refused without data, torch or a cluster.

    Raises
    ------
    InvalidExperimentError
        With the key, the value and what was expected.
    """
    if experiment.log.mlflow is not False:
        check_installed()
    strategy = build_strategy(experiment.strategy.name, experiment.strategy.arguments)
    if isinstance(strategy, FedXgbBagging):
        raise InvalidExperimentError(
            f"strategy.name = {experiment.strategy.name!r}: joins boosted trees, and an "
            "experiment's models are networks; expected another (run an XGBoost app with "
            "'atoll flower')"
        )
    check_arguments(experiment.model)
    check_mods_of(experiment, strategy)
    check_partition(experiment.data)
    check_options(experiment.data.dataset, experiment.data.options)
    if experiment.data.path is not None and not experiment.data.path.exists():
        raise InvalidExperimentError(
            f"data.path = {str(experiment.data.path)!r}: no such folder; expected the data set's "
            "files"
        )


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
    """Keep clients' class histograms and the domains, for reports.

    Of a large federation the histograms of the first clients only: no figure shows a million.
    """
    dataset, partition = federation.dataset, federation.partition
    histogram = class_histogram(
        dataset.train.labels, partition, len(dataset.classes), MAX_HISTOGRAMS
    )
    write_recorded_json(
        directory / PARTITION,
        {
            "clients": list(range(len(histogram))),
            "classes": list(dataset.classes),
            "domains": list(dataset.domains),
            "training_domains": training_domains(dataset, held_out),
            "held_out": sorted(held_out),
            "histogram": histogram.tolist(),
        },
    )
