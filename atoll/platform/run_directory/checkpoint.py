"""Checkpoints: the state after a round as files, from which a run resumes to the same bits.

A checkpoint is a folder ``round-000010`` with the model (``arrays.safetensors``), the strategy's
state, the clients' states, and a manifest of their hashes. It appears under its name only when it
is complete; nothing in it is pickled. The clients' states are an index into segments in ``nodes/``
(``node_states.py``), and each is written once. Large arrays of the state are files of their own in
``shared/``, named by their hash: one that does not change is written once.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from flwr.app import Array, ArrayRecord
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load as load_safetensors
from safetensors.numpy import save as save_safetensors

from atoll.errors import CorruptCheckpointError, RunDirectoryError
from atoll.files.atomic import atomic_file, atomic_folder, remove_partial_folders, sync_folder
from atoll.files.reading import parse_json, read_json
from atoll.flower.arrays import to_array, view
from atoll.platform.run_directory.node_states import INDEX, NodeStates, StateSnapshot

logger = logging.getLogger("atoll")

MODEL, STATE, CLIENTS, TREE, MANIFEST = (
    "arrays.safetensors",
    "state.safetensors",
    "clients.safetensors",
    "state.json",
    "manifest.json",
)


# Arrays of a strategy's state from this size on are files of their own.
SHARED_BYTES = 1 << 20
SHARED = "shared"
SEGMENTS = "segments"


@dataclass
class Checkpoint:
    """The end of a round.

    Attributes
    ----------
    server_round : int
        The round that had ended.
    arrays : ArrayRecord
        The global model.
    tree : dict
        JSON: the strategy's state, random states, metrics so far, the engine's choices.
    state_arrays : dict[str, ndarray]
        The arrays of ``tree``.
    client_states : Mapping[int, bytes]
        ``Context.state`` of every node that has one.
    """

    server_round: int
    arrays: ArrayRecord
    tree: dict[str, Any] = field(default_factory=dict)
    state_arrays: dict[str, NDArray[Any]] = field(default_factory=dict)
    client_states: Mapping[int, bytes] = field(default_factory=dict)


class CheckpointStore:
    """The checkpoints of a run directory.

    Parameters
    ----------
    directory : Path
        Their folder (``RUN_DIR/checkpoints``).
    keep : int
        How many of the newest are kept.
    """

    def __init__(self, directory: Path, keep: int = 2) -> None:
        self._directory = directory
        self._keep = keep
        self._reported: set[str] = set()
        # By identity, the hashes of arrays that were written; holding them keeps identities apart.
        self._hashed: dict[int, tuple[NDArray[Any], str]] = {}

    def nested(self, name: str) -> CheckpointStore:
        """Return a store in a folder of this one's, for a second series of rounds."""
        return CheckpointStore(self._directory / name, self._keep)

    def rounds(self) -> list[int]:
        """Return the rounds that there are checkpoints of, in order."""
        names = self._directory.glob("round-*") if self._directory.is_dir() else ()
        return sorted(int(p.name[6:]) for p in names if p.name[6:].isdecimal() and p.is_dir())

    def write(self, checkpoint: Checkpoint, also: Collection[int] = ()) -> None:
        """Write a checkpoint; it is there as a whole or not at all.

        Parameters
        ----------
        checkpoint : Checkpoint
            The checkpoint.
        also : Collection[int]
            Rounds whose checkpoints stay beside the newest.

        Raises
        ------
        RunDirectoryError
            If it cannot be written (a full disk, say); earlier checkpoints stay.
        """
        target = self._path(checkpoint.server_round)
        try:
            with atomic_folder(target, replaces=True) as partial:
                self._write_files(partial, checkpoint)
            sync_folder(self._directory)
        except OSError as error:
            kept = self.rounds()
            state = f"the checkpoint of round {kept[-1]} is kept" if kept else "there is none yet"
            raise RunDirectoryError(
                f"{target}: the checkpoint cannot be written ({error.strerror or error}); {state}"
            ) from error
        rounds = self.rounds()
        # Those of later rounds are not whole, or this round would not have been run again.
        earlier = [r for r in rounds if r <= checkpoint.server_round]
        kept = [r for r in earlier if r in earlier[-self._keep :] or r in also]
        for server_round in set(rounds).difference(kept):
            shutil.rmtree(self._path(server_round), ignore_errors=True)
        self._remove_unused(kept)

    def remove_partials(self) -> None:
        """Remove what processes left that were killed as they wrote a checkpoint."""
        remove_partial_folders(self._directory)

    def _write_files(self, folder: Path, checkpoint: Checkpoint) -> None:
        model, heads = _model_tensors(checkpoint.arrays)
        states = checkpoint.client_states
        if not isinstance(states, StateSnapshot) or states.directory != self.states_directory:
            states = self._states_written(states)
        shared = self._write_shared(checkpoint.state_arrays)
        own = {path: a for path, a in checkpoint.state_arrays.items() if path not in shared}
        tree = {
            "round": checkpoint.server_round,
            "model": heads,
            SHARED: shared,
            SEGMENTS: states.segments,
            **checkpoint.tree,
        }
        files = {
            MODEL: save_safetensors(model),
            STATE: save_safetensors(own),
            CLIENTS: save_safetensors(states.arrays()),
            TREE: json.dumps(tree).encode(),
        }
        hashes = {name: hashlib.sha256(data).hexdigest() for name, data in files.items()}
        files[MANIFEST] = json.dumps(hashes, indent=1).encode()
        for name, data in files.items():
            _write(folder / name, data)

    @property
    def states_directory(self) -> Path:
        """The folder of the segments of the nodes' states."""
        return self._directory / "nodes"

    def state_segments(self) -> set[int]:
        """Return the segments that the checkpoints refer to."""
        used: set[int] = set()
        for server_round in self.rounds():
            tree = self._tree(server_round)
            used.update(tree.get(SEGMENTS, []))
        return used

    def _tree(self, server_round: int) -> dict[str, Any]:
        path = self._path(server_round) / TREE
        return read_json(path, dict[str, Any], error=CorruptCheckpointError, finite=False)

    def _states_written(self, given: Mapping[int, bytes]) -> StateSnapshot:
        """Write states that are not in the folder of the segments yet."""
        states = NodeStates()
        states.store_in(self.states_directory)
        states.restore(given)
        states.close()
        return states.snapshot()

    def _states_read(self, arrays: dict[str, NDArray[Any]]) -> Mapping[int, bytes]:
        """Return the states that a checkpoint has; those of earlier versions hold them whole."""
        if set(arrays) == set(INDEX):
            return StateSnapshot.of_arrays(self.states_directory, arrays)
        return {int(node): state.tobytes() for node, state in arrays.items()}

    def _write_shared(self, arrays: dict[str, NDArray[Any]]) -> dict[str, str]:
        """Write the large arrays that are not there yet; return the hash of each, by its path."""
        hashed, shared = {}, {}
        for path, array in arrays.items():
            if array.nbytes < SHARED_BYTES:
                continue
            _, name = self._hashed.get(id(array), (array, ""))
            if not name:
                data = save_safetensors({"array": np.ascontiguousarray(array)})
                name = hashlib.sha256(data).hexdigest()
                target = self._directory / SHARED / name
                if not target.exists():
                    with atomic_file(target) as partial:
                        partial.write_bytes(data)
            hashed[id(array)], shared[path] = (array, name), name
        self._hashed = hashed
        return shared

    def _read_shared(self, name: str) -> NDArray[Any]:
        path = self._directory / SHARED / Path(name).name
        try:
            data = path.read_bytes()
        except OSError as error:
            raise CorruptCheckpointError(f"{path}: cannot be read ({error})") from error
        if hashlib.sha256(data).hexdigest() != name:
            raise CorruptCheckpointError(f"{path}: differs from its manifest")
        array: NDArray[Any] = load_safetensors(data)["array"]
        return array

    def _remove_unused(self, kept: list[int]) -> None:
        """Remove the shared arrays that no checkpoint holds."""
        folder = self._directory / SHARED
        if not folder.is_dir():
            return
        used: set[str] = set()
        for server_round in kept:
            try:
                used.update(self._tree(server_round).get(SHARED, {}).values())
            except (CorruptCheckpointError, AttributeError):
                # One that cannot be read says nothing of what it holds.
                return
        for path in folder.iterdir():
            if path.name not in used:
                path.unlink(missing_ok=True)

    def read(self, server_round: int) -> Checkpoint:
        """Read and verify a checkpoint.

        Raises
        ------
        CorruptCheckpointError
            If a file is missing or differs from the manifest.
        """
        folder = self._path(server_round)
        try:
            hashes = read_json(folder / MANIFEST, dict[str, str], error=CorruptCheckpointError)
            files = {name: (folder / name).read_bytes() for name in (MODEL, STATE, CLIENTS, TREE)}
        except OSError as error:
            raise CorruptCheckpointError(f"{folder}: cannot be read ({error})") from error
        for name, data in files.items():
            if hashlib.sha256(data).hexdigest() != hashes.get(name):
                raise CorruptCheckpointError(f"{folder / name}: differs from its manifest")
        try:
            where = str(folder / TREE)
            tree = parse_json(
                files[TREE], where, dict[str, Any], error=CorruptCheckpointError, finite=False
            )
            return Checkpoint(
                server_round=tree["round"],
                arrays=_model_record(load_safetensors(files[MODEL]), tree["model"]),
                tree=tree,
                state_arrays=load_safetensors(files[STATE])
                | {p: self._read_shared(name) for p, name in tree.get(SHARED, {}).items()},
                client_states=self._states_read(load_safetensors(files[CLIENTS])),
            )
        except (AttributeError, KeyError, TypeError, ValueError, SafetensorError) as error:
            raise CorruptCheckpointError(f"{folder}: cannot be decoded ({error})") from error

    def latest(self) -> Checkpoint | None:
        """Return the newest checkpoint that is whole, or None if there is none.

        Raises
        ------
        CorruptCheckpointError
            If there are checkpoints and none of them is whole.
        """
        problems = []
        for server_round in reversed(self.rounds()):
            try:
                return self.read(server_round)
            except CorruptCheckpointError as error:
                problems.append(str(error))
                if str(error) not in self._reported:
                    logger.warning("%s; going back to the one before", error)
                self._reported.add(str(error))
        if problems:
            raise CorruptCheckpointError(f"no checkpoint is whole: {'; '.join(problems)}")
        return None

    def _path(self, server_round: int) -> Path:
        return self._directory / f"round-{server_round:06d}"


def _write(path: Path, data: bytes) -> None:
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _model_tensors(
    arrays: ArrayRecord,
) -> tuple[dict[str, NDArray[Any]], list[tuple[str, str, list[int], str]]]:
    """Return the model's arrays for safetensors; those of foreign kinds as their raw bytes."""
    tensors, heads = {}, []
    for key, array in arrays.items():
        native = array.stype == "numpy.ndarray" and np.dtype(array.dtype).kind in "biuf"
        # safetensors writes buffers as they lie in memory, whatever their strides say.
        values = np.ascontiguousarray(view(array)) if native else None
        if values is not None:
            tensors[key] = values.reshape(array.shape)
        else:
            tensors[key] = np.frombuffer(array.data, np.uint8)
        heads.append((key, array.dtype, list(array.shape), array.stype if values is None else ""))
    return tensors, heads


def _model_record(
    tensors: dict[str, NDArray[Any]], heads: list[tuple[str, str, list[int], str]]
) -> ArrayRecord:
    record = ArrayRecord()
    for key, dtype, shape, stype in heads:
        if stype:
            data = tensors[key].tobytes()
            record[key] = Array(dtype=dtype, shape=tuple(shape), stype=stype, data=data)
        else:
            record[key] = to_array(tensors[key])
    return record


def parameters_sha256(arrays: ArrayRecord) -> str:
    """Return a hash of a model: keys, dtypes, shapes and bytes, in order.

    Parameters
    ----------
    arrays : ArrayRecord
        The model's arrays.

    Returns
    -------
    str
        64 hexadecimal digits: two models with the same hash have the same bits.

    Examples
    --------
    >>> import numpy as np
    >>> from flwr.app import ArrayRecord
    >>> from atoll import parameters_sha256
    >>> parameters_sha256(ArrayRecord([np.zeros(3, np.float32)]))[:8]
    'e3d515a5'
    """
    digest = hashlib.sha256()
    for key, array in arrays.items():
        digest.update(f"{key}\x1f{array.dtype}\x1f{tuple(array.shape)}\x1f".encode())
        if array.stype == "numpy.ndarray":
            digest.update(np.ascontiguousarray(view(array)).tobytes())
        else:
            digest.update(array.data)
    return digest.hexdigest()
