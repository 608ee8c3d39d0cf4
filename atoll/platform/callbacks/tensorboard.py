"""A run's metrics as TensorBoard events."""

from __future__ import annotations

from pathlib import Path

from atoll.extras import OptionalModule
from atoll.platform.callbacks.observers import Observer, RoundRecord, RunInfo

tensorboard = OptionalModule("tensorboardX", "log.tensorboard")


class TensorBoardLog(Observer):
    """Writes scalars to ``RUN_DIR/tensorboard`` (an observer).

    Parameters
    ----------
    directory : Path
        The run directory.
    """

    def __init__(self, directory: Path) -> None:
        self._writer = tensorboard.SummaryWriter(str(directory / "tensorboard"))

    def on_start(self, run: RunInfo) -> None:
        """Note the run."""
        self._writer.add_text("run", f"{run.strategy}, {run.clients} clients", run.first_round - 1)

    def on_round(self, record: RoundRecord) -> None:
        """Write a round's scalars."""
        for name, value in record.scalars():
            self._writer.add_scalar(name, value, record.server_round)
        self._writer.flush()

    def close(self) -> None:
        """Close the file."""
        self._writer.close()
