"""The ``Run`` of a Flower app, and where Flower keeps its own configuration."""

from __future__ import annotations

import hashlib
from contextlib import suppress
from pathlib import Path
from typing import Any

from flwr.cli.build import build_fab_from_disk
from flwr.supercore.constant import DEFAULT_SIMULATION_CONFIG
from flwr.supercore.run import Run
from flwr.supercore.utils import get_flwr_home

from atoll.flower.messages import RUN_ID

__all__ = [
    "DEFAULT_SUPERNODES",
    "Run",
    "app_run",
    "config_file",
    "new_run",
]

# Nodes of a simulation that nobody has said a number for.
DEFAULT_SUPERNODES = int(DEFAULT_SIMULATION_CONFIG.num_supernodes)


def config_file() -> Path:
    """Return where Flower's configuration file is, if there is one."""
    return Path(get_flwr_home()) / "config.toml"


def new_run() -> Run:
    """Return the ``Run`` that a :class:`~flwr.serverapp.Grid` of ours reports."""
    return Run.create_empty(RUN_ID)


def app_run(directory: Path, fab_id: str, version: str, overrides: dict[str, Any]) -> Run:
    """Return the ``Run`` of an app.

    Parameters
    ----------
    directory : Path
        Where the app is. Its ``fab_hash`` is that of the bundle that Flower makes of it, or empty
        where Flower refuses to make one.
    fab_id : str
        ``publisher/name``.
    version : str
        The app's version.
    overrides : dict
        What the user has changed of its run config.
    """
    run = new_run()
    run.fab_id, run.fab_version, run.override_config = fab_id, version, dict(overrides)
    with suppress(OSError, ValueError):
        run.fab_hash = hashlib.sha256(build_fab_from_disk(directory)).hexdigest()
    return run
