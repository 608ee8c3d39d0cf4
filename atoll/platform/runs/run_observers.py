"""The observers that an experiment asks for, beside the ledger."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from atoll.platform.callbacks.mlflow_log import MLflowLog
from atoll.platform.callbacks.notebook import notebook_progress
from atoll.platform.callbacks.observers import Observer
from atoll.platform.callbacks.tensorboard import TensorBoardLog
from atoll.platform.callbacks.wandb_log import WandbLog
from atoll.platform.config.experiment import Experiment


def observers_of(experiment: Experiment, classes: Sequence[str], directory: Path) -> list[Observer]:
    """Return the observers of ``[log]``.

    Parameters
    ----------
    experiment : Experiment
        The experiment.
    classes : Sequence[str]
        Names of the classes of its data.
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
        observers.append(TensorBoardLog(directory, config, classes))
    if log.mlflow is not False:
        observers.append(MLflowLog(directory, log.mlflow, config, classes))
    if log.wandb:
        observers.append(WandbLog(directory, config, classes))
    return observers
