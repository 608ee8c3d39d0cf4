"""A run's metrics in Weights & Biases (the optional extra ``atoll[wandb]``)."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import BaseModel, ConfigDict

from atoll.credentials import without_credentials
from atoll.errors import EngineError
from atoll.files.manifests import read_verified
from atoll.files.reading import Line, parse_json
from atoll.files.recorded import write_recorded_json
from atoll.lazy import LazyModule
from atoll.platform.callbacks.metrics_log import MetricsLog
from atoll.platform.callbacks.observers import RunInfo

logger = logging.getLogger("atoll")

PROJECT, NOTE, SECONDS = "atoll", "wandb.json", 60
wandb = LazyModule("wandb")


class _Note(BaseModel):
    """``wandb.json``."""

    model_config = ConfigDict(strict=True)

    run_id: Line


class WandbLog(MetricsLog):
    """Writes hyper-parameters and a step a round to a W&B run (an observer).

    The server, the key, the project and the mode are W&B's own settings: ``WANDB_API_KEY``,
    ``WANDB_PROJECT``, ``WANDB_MODE=offline`` and others. A resumed run continues in the same run of
    W&B's: its id is kept in the run directory. W&B's own files are in ``RUN_DIR/wandb``; neither
    the environment nor code is written to them.

    Parameters
    ----------
    directory : Path
        The run directory.
    config, classes
        As for :class:`~atoll.platform.callbacks.metrics_log.MetricsLog`.

    Raises
    ------
    EngineError
        If W&B refuses the run.
    """

    def __init__(
        self, directory: Path, config: Mapping[str, Any], classes: Sequence[str] = ()
    ) -> None:
        super().__init__(config, classes)
        # Its crash reports would go out to a server of others.
        os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
        note = directory / NOTE
        run_id = parse_json(read_verified(note), str(note), _Note).run_id if note.exists() else None
        try:
            self._run = wandb.init(
                project=os.environ.get("WANDB_PROJECT", PROJECT),
                name=str(self.hyperparameters.get("run.name", directory.name)),
                id=run_id,
                resume=None if run_id is None else "allow",
                dir=str(directory),
                config=self.hyperparameters,
                settings=wandb.Settings(
                    init_timeout=SECONDS,
                    console="off",
                    silent=True,
                    save_code=False,
                    disable_git=True,
                    disable_job_creation=True,
                    x_disable_meta=True,
                    x_disable_stats=True,
                ),
            )
        except Exception as error:
            line = without_credentials((str(error).splitlines() or [type(error).__name__])[0])
            raise EngineError(
                f"log.wandb = true: W&B refuses the run ({line}); expected a key by 'wandb login' "
                "or in WANDB_API_KEY, or WANDB_MODE=offline"
            ) from error
        if run_id is None:
            write_recorded_json(note, {"run_id": str(self._run.id)})

    def on_start(self, run: RunInfo) -> None:
        """Note the run."""
        with _tolerated("the start"):
            self._run.summary["strategy"] = run.strategy
            self._run.summary["directory"] = str(run.directory)

    def write(
        self, step: int, scalars: Mapping[str, float], histograms: Mapping[str, np.ndarray]
    ) -> None:
        """Write a round."""
        drawn = {name: wandb.Histogram(values) for name, values in histograms.items()}
        with _tolerated(f"round {step}"):
            self._run.log({**scalars, **drawn}, step=step)

    def on_end(self, result: Mapping[str, Any]) -> None:
        """Note the parameters' hash."""
        with _tolerated("the end"):
            self._run.summary["parameters_sha256"] = result["parameters_sha256"]
            self._run.finish(exit_code=0)

    def close(self) -> None:
        """End the run; one that has no end yet has failed, or is to be resumed."""
        with _tolerated("the end"):
            self._run.finish(exit_code=1)


@contextmanager
def _tolerated(what: str) -> Iterator[None]:
    """Warn of what W&B does not take; it is in the ledger, too, so no run ends."""
    try:
        yield
    except Exception as error:
        logger.warning("%s is not in W&B: %s", what, without_credentials(str(error)))
