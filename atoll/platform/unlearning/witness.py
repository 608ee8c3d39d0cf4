"""What a model tells of erased examples: how well it does on them, and membership inference."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from flwr.app import ArrayRecord
from numpy.typing import NDArray
from torch import nn

from atoll.attacks.membership.candidate_signals import Candidates
from atoll.attacks.membership.model_scores import model_scores
from atoll.attacks.membership.operating_points import auroc, found_at
from atoll.clients.data.files.dataset import Dataset
from atoll.clients.data.partitioning.domains import test_sets
from atoll.clients.tasks.classification import Classification
from atoll.clients.training.evaluation import evaluate, metrics_by_domain
from atoll.platform.attack_runs.membership_run import of_classes
from atoll.platform.config.experiment import Experiment
from atoll.platform.runs.federation import Federation
from atoll.platform.runs.server_figures import erased_examples
from atoll.randomness import derive_seed

FALSE_RATE = 0.01


@dataclass(frozen=True)
class Asked:
    """Examples that models are asked about.

    Attributes
    ----------
    erased : NDArray[int64]
        All examples of the clients that leave: places in the training split.
    members, others : NDArray[int64]
        Candidates of membership inference: some of them, and as many test examples, of the same
        classes where the task has classes.
    """

    erased: NDArray[np.int64]
    members: NDArray[np.int64]
    others: NDArray[np.int64]


def asked_of(experiment: Experiment, federation: Federation, candidates: int, seed: int) -> Asked:
    """Draw the examples that the models of an unlearning are asked about.

    Parameters
    ----------
    experiment : Experiment
        That of the unlearning.
    federation : Federation
        Its data and clients.
    candidates : int
        Members, at most.
    seed : int
        Draws them.
    """
    dataset = federation.dataset
    erased = erased_examples(experiment, federation)
    generator = np.random.default_rng(derive_seed(seed, "erased candidates"))
    count = min(candidates, len(erased), len(dataset.test))
    members = np.sort(generator.choice(erased, count, replace=False))
    if isinstance(dataset.task, Classification):
        others = of_classes(dataset.train.labels[members], dataset, generator)
    else:
        others = np.sort(generator.choice(len(dataset.test), count, replace=False))
    return Asked(erased, members, others)


def figures_of(
    experiment: Experiment,
    federation: Federation,
    arrays: ArrayRecord,
    asked: Asked,
    reference: ArrayRecord | None = None,
) -> dict[str, float]:
    """Return what a model says of test examples and of erased ones.

    Parameters
    ----------
    experiment : Experiment
        Of the model's run.
    federation : Federation
        Its data, standardised as in that run.
    arrays : ArrayRecord
        The model.
    asked : Asked
        The erased examples.
    reference : ArrayRecord, optional
        A model of the same federation that was trained without them, for the calibrated score.

    Returns
    -------
    dict[str, float]
        The task's metrics with "test " and "erased " before them; of each score of membership its
        AUROC, and the share of members found at 1 % false positives.
    """
    torch.set_num_threads(1)
    dataset, data = federation.dataset, experiment.data
    task, network = dataset.task, _network(federation, arrays)
    sets = test_sets(dataset, data.held_out, data.test_examples)
    tested = [evaluate(network, dataset, dataset.test, own) for own in sets.indices]
    of_erased = evaluate(network, dataset, dataset.train, asked.erased).metrics()
    metrics = {"test": metrics_by_domain(sets, tested), "erased": of_erased}
    found = {
        f"{where} {name}": _number(values[name])
        for where, values in metrics.items()
        for name in task.metrics
    }
    both = (dataset.train, asked.members), (dataset.test, asked.others)
    candidates = Candidates(
        torch.cat([dataset.inputs.to_tensor(split.inputs[chosen]) for split, chosen in both]),
        torch.cat([torch.from_numpy(split.labels[chosen]) for split, chosen in both]),
    )
    other = None if reference is None else _network(federation, reference)
    return found | membership_figures(network, dataset, candidates, len(asked.members), other)


def membership_figures(
    network: nn.Module,
    dataset: Dataset,
    candidates: Candidates,
    members: int,
    reference: nn.Module | None = None,
) -> dict[str, float]:
    """Return AUROC and true-positive rate at 1 % of each score; members are the first."""
    figures: dict[str, float] = {}
    for name, scores in model_scores(network, dataset.task, candidates, reference).items():
        values = scores.numpy()
        figures[f"{name} AUROC"] = auroc(values[:members], values[members:]).value
        rate = found_at(values[:members], values[members:], FALSE_RATE).value
        figures[f"{name} TPR at {FALSE_RATE:.0%}"] = rate
    return figures


def _network(federation: Federation, arrays: ArrayRecord) -> nn.Module:
    network = federation.spec.build_model(federation.dataset)
    federation.spec.arrays_of(network).load(arrays)
    return network.eval()


def _number(value: object) -> float:
    assert isinstance(value, int | float)
    return float(value)
