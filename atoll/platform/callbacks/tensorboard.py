"""A run's metrics as TensorBoard events."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from atoll.extras import OptionalModule
from atoll.platform.callbacks.metrics_log import MetricsLog
from atoll.platform.callbacks.observers import RunInfo

tensorboard = OptionalModule("tensorboardX", "log.tensorboard")
summary = OptionalModule("tensorboardX.summary", "log.tensorboard")


class TensorBoardLog(MetricsLog):
    """Writes scalars, histograms and hyper-parameters to ``RUN_DIR/tensorboard`` (an observer).

    Parameters
    ----------
    directory : Path
        The run directory.
    config, classes
        As for :class:`~atoll.platform.callbacks.metrics_log.MetricsLog`.
    """

    def __init__(
        self, directory: Path, config: Mapping[str, Any], classes: Sequence[str] = ()
    ) -> None:
        super().__init__(config, classes)
        self._writer = tensorboard.SummaryWriter(str(directory / "tensorboard"))

    def on_start(self, run: RunInfo) -> None:
        """Note the run and its hyper-parameters."""
        self._writer.add_text("run", f"{run.strategy}, {run.clients} clients", run.first_round - 1)
        known = {
            name: value if isinstance(value, bool | int | float | str) else str(value)
            for name, value in self.hyperparameters.items()
        }
        # What the page shows beside the hyper-parameters, if the run has it.
        metrics = {"server/accuracy": 0.0, "server/loss": 0.0}
        for part in summary.hparams(known, metrics):
            self._writer.file_writer.add_summary(part)

    def write(
        self, step: int, scalars: Mapping[str, float], histograms: Mapping[str, np.ndarray]
    ) -> None:
        """Write a round's events."""
        for name, value in scalars.items():
            self._writer.add_scalar(name, value, step)
        for name, values in histograms.items():
            self._writer.add_histogram(name, values, step)
        self._writer.flush()

    def close(self) -> None:
        """Close the file."""
        self._writer.close()
