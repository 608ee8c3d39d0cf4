"""The observers that an experiment asks for, beside the ledger."""

from __future__ import annotations

from pathlib import Path

from atoll.platform.callbacks.mlflow_log import MLflowLog
from atoll.platform.callbacks.notebook import notebook_progress
from atoll.platform.callbacks.observers import Observer
from atoll.platform.callbacks.tensorboard import TensorBoardLog
from atoll.platform.config.experiment import Experiment


def observers_of(experiment: Experiment, directory: Path) -> list[Observer]:
    """Return the observers of ``[log]``.

    Parameters
    ----------
    experiment : Experiment
        The experiment.
    directory : Path
        The run directory.

    Raises
    ------
    EngineError
        If a server refuses the run.
    """
    log, config = experiment.log, experiment.to_dict()
    observers: list[Observer] = notebook_progress() if log.progress else []
    if log.tensorboard:
        observers.append(TensorBoardLog(directory))
    if log.mlflow is not False:
        observers.append(MLflowLog(directory, log.mlflow, config))
    return observers
