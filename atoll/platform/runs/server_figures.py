"""What a run measures of its global model on the server."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from atoll.clients.data.partitioning.domains import test_sets
from atoll.platform.config.experiment import Experiment
from atoll.platform.config.poisoning import poison_of
from atoll.platform.config.unlearning.problems import absent_nodes
from atoll.platform.grid.ray_grid import RayGrid
from atoll.platform.rounds.attack_success import AttackSuccess
from atoll.platform.rounds.erased_examples import ErasedExamples
from atoll.platform.rounds.server_diagnostics import ServerDiagnostics
from atoll.platform.rounds.server_evaluation import Diagnostics, OnConfusion, ServerEvaluation
from atoll.platform.runs.federation import Federation
from atoll.strategies.alignment.alignment_strategy import AlignmentStrategy


def server_evaluation(
    experiment: Experiment, federation: Federation, grid: RayGrid, on_confusion: OnConfusion
) -> ServerEvaluation:
    """Return the evaluation of a run's rounds on the server, with all that is measured beside it.

    Parameters
    ----------
    experiment : Experiment
        The experiment.
    federation : Federation
        Its data, clients and strategy.
    grid : RayGrid
        Its workers evaluate.
    on_confusion : callable
        Told of each round's confusion matrix.
    """
    settings, strategy = experiment.run, federation.strategy
    dataset, spec = federation.dataset, federation.spec
    sets = test_sets(dataset, experiment.data.held_out, experiment.data.test_examples)
    place = (grid, dataset, spec, sets)
    every = strategy.diagnostics_every if isinstance(strategy, AlignmentStrategy) else 0
    diagnostics: list[Diagnostics] = []
    if every and sets.validation:
        diagnostics.append(ServerDiagnostics(*place, every))
    poison = poison_of(experiment, len(federation.partition), dataset)
    if poison is not None and poison.has_goal:
        diagnostics.append(AttackSuccess(*place, poison))
    if experiment.unlearn is not None:
        diagnostics.append(ErasedExamples(grid, spec, erased_examples(experiment, federation)))
    return ServerEvaluation(*place, diagnostics, settings.metrics or (), on_confusion)


def erased_examples(experiment: Experiment, federation: Federation) -> NDArray[np.int64]:
    """Return the training examples of the clients that leave: places in the training split."""
    fraction, seed = experiment.data.client_test_fraction, experiment.run.seed
    nodes = sorted(absent_nodes(experiment))
    own = [federation.partition.split(node - 1, fraction, seed)[0] for node in nodes]
    return np.sort(np.concatenate(own))
