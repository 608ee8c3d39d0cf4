"""Atoll: a laboratory for federated learning on Ray and Flower."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from atoll.platform.config.experiment import Experiment as Experiment
    from atoll.platform.config.experiment import load_experiment as load_experiment
    from atoll.platform.runs.federation_run import RunResult as RunResult
    from atoll.platform.runs.federation_run import resume as resume
    from atoll.platform.runs.federation_run import run as run

__version__ = "0.1.0"
__all__ = ["Experiment", "RunResult", "__version__", "load_experiment", "resume", "run"]

_HOMES = {
    "Experiment": "atoll.platform.config.experiment",
    "load_experiment": "atoll.platform.config.experiment",
    "RunResult": "atoll.platform.runs.federation_run",
    "resume": "atoll.platform.runs.federation_run",
    "run": "atoll.platform.runs.federation_run",
}


def __getattr__(name: str) -> Any:
    """Import what is asked for only then: ``import atoll`` stays quick."""
    if name not in _HOMES:
        raise AttributeError(f"module 'atoll' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)
