"""Unlearning as a run: its strategy, and the model of another run that it begins with."""

from __future__ import annotations

from pathlib import Path

from flwr.app import ArrayRecord
from flwr.serverapp.strategy import Strategy

from atoll.clients.apps.leaving_clients import Ascent
from atoll.clients.tasks.task import Task
from atoll.clients.training.ascent import default_stop
from atoll.errors import InvalidExperimentError, RunDirectoryError
from atoll.platform.config.experiment import Experiment
from atoll.platform.config.unlearning.settings import PROJECTED_ASCENT, RETRAIN, UnlearnSettings
from atoll.platform.run_directory.checkpoint import CheckpointStore
from atoll.strategies.unlearning import Unlearning

CHECKPOINTS = "checkpoints"
# Among a run's data: the hash of the model that it unlearns.
UNLEARNED = "the model that is unlearned"


def with_unlearning(strategy: Strategy, experiment: Experiment, task: Task) -> Strategy:
    """Return the strategy that an experiment's ``[unlearn]`` makes of its own.

    Parameters
    ----------
    strategy : Strategy
        That of ``[strategy]``.
    experiment : Experiment
        The experiment.
    task : Task
        Of its data set: ascent ends at a value of its main metric.
    """
    unlearn = experiment.unlearn
    if unlearn is None or unlearn.ascent_round is None:
        return strategy
    asked = ascent_of(unlearn, experiment.client.batch_size, task)
    nodes = tuple(sorted(set(unlearn.nodes)))
    return Unlearning(strategy, nodes, asked.to_config(), unlearn.ascent_round)


def ascent_of(unlearn: UnlearnSettings, batch_size: int, task: Task) -> Ascent:
    """Return what clients that leave are asked for.

    Raises
    ------
    InvalidExperimentError
        If it is not said where ascent ends.
    """
    stop = default_stop(task) if unlearn.stop is None else unlearn.stop
    if stop is None:
        raise InvalidExperimentError(
            f"unlearn.stop is not set: the task is {task.kind}, and ascent ends at a value of "
            f"{task.metrics[0]!r}; expected one"
        )
    return Ascent(
        epochs=unlearn.ascent_epochs,
        learning_rate=unlearn.ascent_learning_rate,
        momentum=unlearn.ascent_momentum,
        gradient_clip=unlearn.ascent_gradient_clip,
        batch_size=unlearn.ascent_batch_size or batch_size,
        stop=float(stop),
        is_projected=unlearn.method == PROJECTED_ASCENT,
        radius=unlearn.radius,
    )


def last_model(run_directory: Path) -> ArrayRecord:
    """Return the last model of a run, from its newest checkpoint.

    Raises
    ------
    RunDirectoryError
        If there is none.
    """
    store = CheckpointStore(run_directory / CHECKPOINTS)
    checkpoint = store.latest() if run_directory.is_dir() else None
    if checkpoint is None:
        raise RunDirectoryError(
            f"{run_directory}: has no checkpoint; expected the directory of a run that has ended"
        )
    return checkpoint.arrays


def starting_model(experiment: Experiment, initial: ArrayRecord) -> ArrayRecord:
    """Return the arrays that a run begins with: new ones, or another run's last.

    Parameters
    ----------
    experiment : Experiment
        The experiment.
    initial : ArrayRecord
        The new ones.

    Raises
    ------
    AtollError
        If the other run has no model, or one that does not fit.
    """
    unlearn = experiment.unlearn
    if unlearn is None or unlearn.method == RETRAIN or unlearn.run is None:
        return initial
    found = last_model(unlearn.run)
    shapes = {name: tuple(array.shape) for name, array in initial.items()}
    if {name: tuple(array.shape) for name, array in found.items()} != shapes:
        raise InvalidExperimentError(
            f"unlearn.run = {str(unlearn.run)!r}: its model is not model.name = "
            f"{experiment.model.name!r} of this experiment; expected a run with the same [model] "
            "and [data]"
        )
    return found
