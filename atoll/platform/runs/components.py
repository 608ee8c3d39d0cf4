"""Components of an experiment: data set, partition, model and strategy."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from flwr.serverapp.strategy import Strategy
from torch import nn

from atoll.clients.data.catalog.loading import load_dataset
from atoll.clients.data.client_statistics import fit_to_clients
from atoll.clients.data.files.dataset import Dataset
from atoll.clients.data.label_noise import with_label_noise
from atoll.clients.data.partitioning.partition import Partition, partition_dataset
from atoll.clients.models.model_building import build_model, model_seed
from atoll.clients.training.stacked.vectorized_training import obstacle_to_vectorizing
from atoll.platform.config.experiment import Experiment
from atoll.platform.config.privacy.budget import with_budget, with_private_examples
from atoll.platform.config.privacy.canaries import with_canaries
from atoll.strategies import build_strategy

# Components of other experiments that are kept: a model may be large.
KEPT = 16


class ComponentCache:
    """The data sets, partitions and models that were made last, by their settings."""

    def __init__(self) -> None:
        self._made: dict[tuple[object, ...], Any] = {}

    def once(self, key: tuple[object, ...], make: Callable[..., Any], *arguments: Any) -> Any:
        """Return what is kept under ``key``, made from the arguments if nothing is."""
        if key not in self._made:
            if len(self._made) == KEPT:
                del self._made[next(iter(self._made))]
            self._made[key] = make(*arguments)
        return self._made[key]


@dataclass(frozen=True)
class Components:
    """An experiment and what it is made of, with the model on the CPU."""

    experiment: Experiment
    strategy: Strategy
    dataset: Dataset
    partition: Partition
    model: nn.Module
    _cache: ComponentCache = field(repr=False)

    @classmethod
    def of(cls, experiment: Experiment, cache: ComponentCache | None = None) -> Components:
        """Make an experiment's strategy, data set, partition and model, in this order.

        Parameters
        ----------
        experiment : Experiment
            The experiment.
        cache : ComponentCache, optional
            What others like it were made of.

        Raises
        ------
        AtollError
            If the data cannot be had, or a name or an argument is wrong.
        """
        cache = cache or ComponentCache()
        experiment = with_canaries(with_private_examples(experiment))
        data, seed = experiment.data, experiment.run.seed
        strategy = build_strategy(experiment.strategy.name, experiment.strategy.arguments)
        strategy = with_budget(strategy, experiment)
        source = (data.dataset, data.path, data.dataset_options)
        dataset = cache.once(("data", repr(source), seed), load_dataset, *source, seed)
        dealt = ("partition", repr(data), seed)
        # Examples are dealt by their true labels.
        partition = cache.once(dealt, partition_dataset, dataset, data, seed)
        if data.label_noise is not None:
            noise = ("noise", repr(source), repr(data.label_noise), seed)
            dataset = cache.once(noise, with_label_noise, dataset, data.label_noise, seed)
        of_clients = (dataset, partition, data.client_test_fraction, seed)
        dataset = cache.once(("statistics", repr(data), seed), fit_to_clients, *of_clients)
        arguments = (experiment.model, dataset.inputs, dataset.task)
        initial = model_seed(seed)
        model = cache.once(("model", repr(arguments), seed), build_model, *arguments, initial)
        return cls(experiment, strategy, dataset, partition, model, cache)

    def obstacle_to_vectorizing(self) -> str | None:
        """Return why clients of the model cannot train vectorised, or None."""
        dataset = self.dataset
        key = ("obstacle", repr(self.experiment.model), repr(dataset.inputs), repr(dataset.task))
        found: str | None = self._cache.once(
            key, obstacle_to_vectorizing, self.model, dataset.inputs
        )
        return found
