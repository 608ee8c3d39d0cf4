"""Natural clients: each group of a data set is a client, where an experiment says nothing else."""

from __future__ import annotations

import logging
from collections.abc import Callable

import numpy as np

from atoll.clients.data.catalog.loading import DATASETS, load_dataset
from atoll.clients.data.files.dataset import Dataset
from atoll.clients.data.inputs.images import ImageInputs
from atoll.clients.data.partitioning.domains import check_held_out
from atoll.clients.data.partitioning.partition import chosen_examples
from atoll.clients.settings import DataSettings, PartitionSettings
from atoll.errors import InvalidExperimentError
from atoll.platform.config.consistency import problems_of
from atoll.platform.config.experiment import Experiment

logger = logging.getLogger("atoll")

# Either of these says what the clients are.
KEYS = frozenset({"clients", "partition"})
BY_GROUP = PartitionSettings.model_validate({"name": "natural-id", "partition_by": "group"})


def _dataset_of(experiment: Experiment) -> Dataset:
    data = experiment.data
    return load_dataset(data.dataset, data.path, data.dataset_options, experiment.run.seed)


def with_natural_clients(
    experiment: Experiment, dataset_of: Callable[[Experiment], Dataset] = _dataset_of
) -> Experiment:
    """Return an experiment with a client for each group, where it leaves open what the clients are.

    That is so where the data set has groups that are natural clients (hospitals, authors) and
    neither ``data.clients`` nor ``data.partition`` is set. Every other experiment is returned as it
    is, and its data are not loaded.

    Parameters
    ----------
    experiment : Experiment
        The experiment.
    dataset_of : Callable
        Returns its data set; a sweep keeps those of its trials open.

    Raises
    ------
    AtollError
        If the data cannot be had, or the experiment does not fit so many clients.
    """
    data, seed = experiment.data, experiment.run.seed
    if not _may_have(data):
        return experiment
    dataset = dataset_of(experiment)
    groups = dataset.train.groups
    if groups is None or isinstance(dataset.inputs, ImageInputs):
        # A group of images shows one thing.
        return experiment
    check_held_out(dataset, data.held_out)
    clients = len(np.unique(groups[chosen_examples(dataset, data, seed)]))
    logger.info("%s has %d groups to train on: each is a client", dataset.name, clients)
    update = {"clients": clients, "partition": BY_GROUP}
    resolved = experiment.model_copy(update={"data": data.model_copy(update=update)})
    problems = problems_of(resolved)
    if problems:
        raise InvalidExperimentError("\n".join(problems))
    return resolved


def _may_have(data: DataSettings) -> bool:
    if data.model_fields_set & KEYS:
        return False
    return ":" in data.dataset or DATASETS.find(data.dataset, "data.dataset").has_natural_clients
