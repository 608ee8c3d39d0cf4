"""The ``Run`` that a grid reports, and where Flower keeps its own configuration."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from flwr.supercore.constant import DEFAULT_SIMULATION_CONFIG
from flwr.supercore.run import Run
from flwr.supercore.utils import get_flwr_home

from atoll.flower.messages import RUN_ID

__all__ = ["DEFAULT_SUPERNODES", "Run", "app_run", "config_file", "new_run"]

# Nodes of a simulation that nobody has said a number for.
DEFAULT_SUPERNODES = int(DEFAULT_SIMULATION_CONFIG.num_supernodes)


def config_file() -> Path:
    """Return where Flower's configuration file is, if there is one."""
    return Path(get_flwr_home()) / "config.toml"


def new_run() -> Run:
    """Return the ``Run`` that a :class:`~flwr.serverapp.Grid` of ours reports."""
    return Run.create_empty(RUN_ID)


def app_run(fab_id: str, version: str, fab_hash: str, overrides: dict[str, Any]) -> Run:
    """Return the ``Run`` of an app.

    Parameters
    ----------
    fab_id : str
        ``publisher/name``.
    version : str
        The app's version.
    fab_hash : str
        The SHA-256 of its bundle, or empty.
    overrides : dict
        What the user has changed of its run config.
    """
    run = new_run()
    run.fab_id, run.fab_version, run.override_config = fab_id, version, dict(overrides)
    run.fab_hash = fab_hash
    return run
