"""The experiment that a run directory is of, from its ``config.toml``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from atoll.errors import InvalidExperimentError, RunDirectoryError
from atoll.platform.config.experiment import ADDED_TABLES, Experiment, with_overrides
from atoll.platform.run_directory.run_files import CONFIG, read_config


def load_run_config(directory: Path, overrides: Sequence[str] = ()) -> Experiment:
    """Read the experiment of a run directory.

    Parameters
    ----------
    directory : Path
        The run directory.
    overrides : Sequence[str]
        ``section.key=value``; they win over the file.

    Raises
    ------
    RunDirectoryError
        If ``config.toml`` is not what was written, or what it says cannot be run.
    """
    tables = read_config(directory)
    for name in ADDED_TABLES:
        tables.pop(name, None)
    try:
        return Experiment.from_dict(with_overrides(tables, overrides))
    except InvalidExperimentError as error:
        lines = str(error).splitlines()
        path = directory / CONFIG
        raise RunDirectoryError("\n".join(f"{path}: {line}" for line in lines)) from error
