"""The checkpoints of layer-wise training: a file a unit and epoch, atomic, with its hash.

A file holds the unit's parameters and buffers, its optimiser's state, and what was reported of
every epoch. Random states are not in it: they derive from (seed, unit, epoch).
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import torch
from pydantic import BaseModel, ConfigDict, Field
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from atoll.errors import CorruptCheckpointError
from atoll.files.atomic import replacing
from atoll.files.reading import parse_json

logger = logging.getLogger("atoll")

MODULE, OPTIMIZER = "module.", "optimizer."
SHARED = "shared"


class _About(BaseModel):
    """Metadata of a file beside its tensors."""

    model_config = ConfigDict(extra="ignore", strict=True)

    epoch: Annotated[int, Field(ge=0)]
    optimizer: dict[str, Any]
    reports: list[dict[str, Any]]


@dataclass(frozen=True)
class UnitState:
    """A unit after an epoch.

    Attributes
    ----------
    epoch : int
        0 is before training.
    module : dict[str, Tensor]
        Its module's ``state_dict()``.
    optimizer : dict or None
        Its optimiser's.
    reports : list[dict]
        What was reported of epochs 1 to ``epoch``.
    """

    epoch: int
    module: dict[str, Tensor]
    optimizer: dict[str, Any] | None = None
    reports: list[dict[str, Any]] = field(default_factory=list)


class UnitFiles:
    """The checkpoints of layer-wise training's units.

    Parameters
    ----------
    directory : Path
        Their folder; each unit has one in it.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def path(self, name: str, epoch: int) -> Path:
        """Return where a unit's state after an epoch is."""
        return self.directory / name / f"epoch-{epoch:06d}.safetensors"

    def epochs(self, name: str) -> list[int]:
        """Return the epochs that there are files of, in order."""
        paths = (self.directory / name).glob("epoch-*.safetensors")
        return sorted(int(path.stem.removeprefix("epoch-")) for path in paths)

    def write(self, name: str, state: UnitState) -> str:
        """Write a unit's state, as a whole, and return its hash."""
        scalars, tensors = _flattened(state)
        digest = _digest(tensors)
        about = json.dumps({"epoch": state.epoch, "optimizer": scalars, "reports": state.reports})
        metadata = {"about": about, "about_sha256": sha256_of_text(about), "sha256": digest}
        with replacing(self.path(name, state.epoch)) as partial:
            save_file(tensors, partial, metadata)
        return digest

    def read(self, name: str, epoch: int) -> UnitState:
        """Read and verify a unit's state.

        Raises
        ------
        CorruptCheckpointError
            If the file is missing, or is not what was written.
        """
        path = self.path(name, epoch)
        try:
            with safe_open(path, framework="pt") as file:
                metadata = file.metadata() or {}
                tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
            text = metadata["about"]
        except (OSError, SafetensorError, KeyError, ValueError) as error:
            raise CorruptCheckpointError(f"{path}: cannot be read ({error})") from error
        about = parse_json(text, str(path), _About, error=CorruptCheckpointError, finite=False)
        is_about = metadata.get("about_sha256", sha256_of_text(text)) == sha256_of_text(text)
        if not is_about or _digest(tensors) != metadata.get("sha256"):
            raise CorruptCheckpointError(f"{path}: its contents are not those of its hash")
        try:
            return _restored(about, tensors)
        except (KeyError, TypeError) as error:
            raise CorruptCheckpointError(f"{path}: cannot be read (it lacks {error})") from error

    def sha256(self, name: str, epoch: int) -> str:
        """Return the hash that is in a file."""
        with safe_open(self.path(name, epoch), framework="pt") as file:
            return str((file.metadata() or {}).get("sha256"))

    def latest(self, name: str) -> UnitState | None:
        """Return a unit's newest whole state, if there is one."""
        for epoch in reversed(self.epochs(name)):
            try:
                return self.read(name, epoch)
            except CorruptCheckpointError as error:
                logger.warning("%s; going back to the one before", error)
        return None

    def prune(self, name: str, keep_from: int) -> None:
        """Delete a unit's files of epochs before ``keep_from``, but for the newest two."""
        for epoch in self.epochs(name)[:-2]:
            if epoch < keep_from:
                self.path(name, epoch).unlink(missing_ok=True)


def sha256_of_module(module: Mapping[str, Tensor]) -> str:
    """Return a hash of a module's ``state_dict()``: names, dtypes, shapes and bytes."""
    return _digest(module)


def sha256_of_text(text: str) -> str:
    """Return a text's SHA-256."""
    return hashlib.sha256(text.encode()).hexdigest()


def _digest(tensors: Mapping[str, Tensor]) -> str:
    digest = hashlib.sha256()
    for key in sorted(tensors):
        tensor = tensors[key].contiguous()
        digest.update(f"{key}\x1f{tensor.dtype}\x1f{tuple(tensor.shape)}\x1f".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _flattened(state: UnitState) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Return the optimiser's numbers, and all tensors by name."""
    tensors = {MODULE + key: _plain(value) for key, value in state.module.items()}
    scalars: dict[str, Any] = {}
    for key, value in (state.optimizer or {}).items():
        if isinstance(value, list):
            scalars[key] = {"tensors": len(value)}
            tensors |= {f"{OPTIMIZER}{key}.{i}": _plain(t) for i, t in enumerate(value)}
        else:
            scalars[key] = value
    return scalars, tensors


def _plain(tensor: Tensor) -> Tensor:
    """Return a tensor as it is kept: in main memory, and in the order of its dimensions."""
    return tensor.detach().cpu().contiguous()


def _restored(about: _About, tensors: Mapping[str, Tensor]) -> UnitState:
    module = {k.removeprefix(MODULE): t for k, t in tensors.items() if k.startswith(MODULE)}
    optimizer = {
        key: [tensors[f"{OPTIMIZER}{key}.{i}"] for i in range(value["tensors"])]
        if isinstance(value, dict)
        else value
        for key, value in about.optimizer.items()
    }
    return UnitState(about.epoch, module, optimizer or None, about.reports)
