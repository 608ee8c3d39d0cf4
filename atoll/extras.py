"""Packages that a plain run does without: ``pip install "atoll[EXTRA]"`` brings them.

What needs one says so with :func:`require` before any work starts. Modules name such a package as
an :class:`OptionalModule`, so that whoever comes to it another way gets the same line.
"""

from __future__ import annotations

import importlib.util
from typing import Any

from atoll.errors import InvalidExperimentError
from atoll.lazy import LazyModule

# By package, the extra of pyproject.toml that brings it.
EXTRAS = {
    "cma": "attacks",
    "matplotlib": "plot",
    "mlflow": "mlflow",
    "onnx": "export",
    "onnxruntime": "export",
    "onnxscript": "export",
    "opacus": "dp",
    "peft": "transformers",
    "scipy": "attacks",
    "sklearn": "robust",
    "tensorboardX": "tensorboard",
    "tokenizers": "transformers",
    "transformers": "transformers",
    "wandb": "wandb",
    "yaml": "cluster",
}


def require(*packages: str, what: str) -> None:
    """Refuse ``what`` where a package that it needs is not installed.

    Parameters
    ----------
    *packages : str
        Names in :data:`EXTRAS`.
    what : str
        The key or the command, for the error.

    Raises
    ------
    InvalidExperimentError
        With the command that installs it.

    Examples
    --------
    >>> require("numpy", what="log.tensorboard")
    """
    for package in packages:
        if importlib.util.find_spec(package) is None:
            extra = EXTRAS[package]
            raise InvalidExperimentError(f'{what} needs {package}: pip install "atoll[{extra}]"')


class OptionalModule(LazyModule):
    """A module's stand-in (:class:`~atoll.lazy.LazyModule`) that asks for the module's package.

    Parameters
    ----------
    name : str
        The module's full name.
    what : str
        What needs it, for the error.
    """

    def __init__(self, name: str, what: str) -> None:
        super().__init__(name)
        self._package, self._what = name.partition(".")[0], what

    def __getattr__(self, attribute: str) -> Any:
        if not attribute.startswith("__"):
            require(self._package, what=self._what)
        return super().__getattr__(attribute)
