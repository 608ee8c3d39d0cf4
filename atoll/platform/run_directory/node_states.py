"""States of a federation's nodes on disk: what clients keep from one of their rounds to the next.

A state (a control variate, say) may be as large as the model, and there is one a node. Memory holds
an index, 26 MB for 100,000 nodes, and the states that were written last, up to a limit. States are
appended to segment files that never change after that, so a checkpoint of them is the index at its
time. A segment goes when neither the index nor a checkpoint refers to it; one that is mostly out of
date is copied together first.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
import threading
from collections import Counter, OrderedDict
from collections.abc import Collection, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, BinaryIO
from weakref import finalize

import numpy as np
from numpy.typing import NDArray

from atoll.errors import CorruptCheckpointError, RunDirectoryError
from atoll.files.atomic import sync_folder
from atoll.platform.messages.exchange import Chunk
from atoll.platform.messages.outcome import Outcome, StateReference

# A segment is closed at this size.
SEGMENT_BYTES = 64 << 20
# So much of what was written last is in memory too: a small federation reads nothing back.
RECENT_BYTES = 32 << 20
# So much of what is out of date is kept without a look at it.
SLACK_BYTES = 256 << 20
# The arrays of an index in a checkpoint.
INDEX = ("nodes", "segments", "offsets", "lengths", "digests")


class StateSnapshot(Mapping[int, bytes]):
    """States of nodes at some time; each is read from disk when it is asked for.

    Parameters
    ----------
    directory : Path
        The folder of the segments.
    references : Mapping[int, StateReference]
        Where each node's state is.
    """

    def __init__(self, directory: Path, references: Mapping[int, StateReference]) -> None:
        self.directory = directory
        self.references = references

    def __getitem__(self, node: int) -> bytes:
        return read_state(self.directory, self.references[node])

    def __iter__(self) -> Iterator[int]:
        return iter(self.references)

    def __len__(self) -> int:
        return len(self.references)

    @property
    def segments(self) -> list[int]:
        """The segments that it refers to, in order."""
        return sorted({reference.segment for reference in self.references.values()})

    def arrays(self) -> dict[str, NDArray[Any]]:
        """Return the index as arrays, for a checkpoint; none at all without states."""
        if not self.references:
            return {}
        found = list(self.references.values())
        return {
            "nodes": np.array(list(self.references), np.int64),
            "segments": np.array([r.segment for r in found], np.int64),
            "offsets": np.array([r.offset for r in found], np.int64),
            "lengths": np.array([r.length for r in found], np.int64),
            "digests": np.frombuffer(b"".join(r.digest for r in found), np.uint8).reshape(-1, 32),
        }

    @classmethod
    def of_arrays(cls, directory: Path, arrays: Mapping[str, NDArray[Any]]) -> StateSnapshot:
        """Return the snapshot that :meth:`arrays` describes.

        Raises
        ------
        CorruptCheckpointError
            If a segment is missing, or shorter than it was.
        """
        columns = [arrays[name] for name in INDEX]
        references = {
            int(node): StateReference(int(segment), int(offset), int(length), digest.tobytes())
            for node, segment, offset, length, digest in zip(*columns, strict=True)
        }
        ends: dict[int, int] = {}
        for reference in references.values():
            end = reference.offset + reference.length
            ends[reference.segment] = max(end, ends.get(reference.segment, 0))
        for segment, end in ends.items():
            path = segment_path(directory, segment)
            if not path.is_file() or path.stat().st_size < end:
                raise CorruptCheckpointError(f"{path}: is missing or shorter than it was")
        return cls(directory, references)


class _RecentStates:
    """The states that were written last, by where they are; the oldest go first."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._states: OrderedDict[StateReference, bytes] = OrderedDict()
        self._bytes = 0

    def add(self, reference: StateReference, state: bytes) -> None:
        self._states[reference] = state
        self._bytes += len(state)
        while self._bytes > self._limit:
            self._bytes -= len(self._states.popitem(last=False)[1])

    def get(self, reference: StateReference) -> bytes | None:
        return self._states.get(reference)


class NodeStates(Mapping[int, bytes]):
    """The nodes' serialised states, on disk.

    Until :meth:`store_in` they are in a temporary folder, which goes with this object.

    Parameters
    ----------
    segment_bytes, slack_bytes : int
        The size at which a segment is closed, and of what may be out of date before segments are
        copied together.
    recent_bytes : int
        How much of what was written last is kept in memory too.

    Examples
    --------
    >>> states = NodeStates()
    >>> states[3] = b"a state"
    >>> states[3], len(states), states.get(4)
    (b'a state', 1, None)
    """

    def __init__(
        self,
        segment_bytes: int = SEGMENT_BYTES,
        slack_bytes: int = SLACK_BYTES,
        recent_bytes: int = RECENT_BYTES,
    ) -> None:
        self._segment_bytes = segment_bytes
        self._slack_bytes = slack_bytes
        self._directory: Path | None = None
        self._is_temporary = True
        self._index: dict[int, StateReference] = {}
        self._recent = _RecentStates(recent_bytes)
        self._sizes: dict[int, int] = {}
        self._last = 0
        self._file: BinaryIO | None = None
        # Clients' outcomes are taken in one thread, and prompt messages in another.
        self._lock = threading.RLock()

    def __getitem__(self, node: int) -> bytes:
        with self._lock:
            return self._read(self._index[node])

    def __iter__(self) -> Iterator[int]:
        return iter(self._index)

    def __len__(self) -> int:
        return len(self._index)

    def __setitem__(self, node: int, state: bytes) -> None:
        self.keep(node, self.put(state))

    @property
    def references(self) -> Mapping[int, StateReference]:
        """Where each node's state is; changes with the states."""
        return MappingProxyType(self._index)

    def snapshot(self) -> StateSnapshot:
        """Return the states as they are now; later changes do not change it."""
        with self._lock:
            return StateSnapshot(self._folder(), dict(self._index))

    def store_in(self, directory: Path) -> None:
        """Keep states in a folder from now on, those that there are included.

        Segments that are there already, of a run that is resumed, stay.
        """
        with self._lock:
            if directory == self._directory:
                return
            before = self.snapshot() if self._index else {}
            self.close()
            self._directory, self._is_temporary = directory, False
            names = directory.glob("segment-*") if directory.is_dir() else ()
            self._sizes = {int(path.name[8:]): path.stat().st_size for path in names}
            self._last = max(self._sizes, default=0)
            self.restore(before)

    def restore(self, states: Mapping[int, bytes]) -> None:
        """Take over the states of a checkpoint."""
        with self._lock:
            if isinstance(states, StateSnapshot) and states.directory == self._directory:
                self._index = dict(states.references)
                return
            self._index = {}
            for node, state in states.items():
                self[node] = state

    # --- states on their way ---------------------------------------------------------------------

    def put(self, state: bytes) -> StateReference:
        """Write a state that is no node's yet.

        Raises
        ------
        RunDirectoryError
            If it cannot be written (a full disk, say).
        """
        with self._lock:
            try:
                if self._file is None or self._sizes[self._last] >= self._segment_bytes:
                    self._begin_segment()
                assert self._file is not None
                self._file.write(state)
                # Read by others who open the file.
                self._file.flush()
            except OSError as error:
                raise RunDirectoryError(
                    f"{self._folder()}: the state of a node cannot be written "
                    f"({error.strerror or error})"
                ) from error
            offset = self._sizes[self._last]
            self._sizes[self._last] += len(state)
            digest = hashlib.sha256(state).digest()
            reference = StateReference(self._last, offset, len(state), digest)
            self._recent.add(reference, state)
            return reference

    def keep(self, node: int, reference: StateReference) -> None:
        """Make what was put a node's state."""
        with self._lock:
            self._index[node] = reference

    def put_of(self, outcome: Outcome) -> Outcome:
        """Return an outcome with its state on disk."""
        if outcome.state is None:
            return outcome
        return outcome._replace(state=None, kept=self.put(outcome.state))

    def loaded(self, chunk: Chunk) -> Chunk:
        """Return a chunk with its nodes' states, to be sent to a worker."""
        if not chunk.kept:
            return chunk
        states = {node: self._read(reference) for node, reference in chunk.kept.items()}
        return replace(chunk, states={**states, **chunk.states}, kept={})

    # --- what is out of date ---------------------------------------------------------------------

    def sync(self) -> None:
        """Have all states on disk, so that they outlast a loss of power."""
        with self._lock:
            if self._file is not None:
                os.fsync(self._file.fileno())
                sync_folder(self._folder())

    def tidy_temporary(self) -> None:
        """Remove what is out of date, if there are no checkpoints that could refer to it."""
        if self._is_temporary:
            self.tidy()

    def tidy(self, kept: Collection[int] = ()) -> None:
        """Remove what is out of date, if it is much.

        Nothing that was put may be waiting to be kept.

        Parameters
        ----------
        kept : Collection[int]
            Segments that checkpoints refer to.
        """
        with self._lock:
            live: Counter[int] = Counter()
            for reference in self._index.values():
                live[reference.segment] += reference.length
            if sum(self._sizes.values()) - live.total() <= self._slack_bytes:
                return
            sparse = {
                s for s, size in self._sizes.items() if s != self._last and 2 * live[s] < size
            }
            for node, reference in list(self._index.items()):
                if reference.segment in sparse:
                    self._index[node] = self.put(self._read(reference))
            for segment in sparse.difference(kept):
                segment_path(self._folder(), segment).unlink(missing_ok=True)
                del self._sizes[segment]

    def close(self) -> None:
        """Close the files."""
        with self._lock:
            if self._file is not None:
                self._file.close()
                self._file = None

    def _read(self, reference: StateReference) -> bytes:
        state = self._recent.get(reference)
        return read_state(self._folder(), reference) if state is None else state

    def _begin_segment(self) -> None:
        if self._file is not None:
            os.fsync(self._file.fileno())
            self._file.close()
        folder = self._folder()
        folder.mkdir(parents=True, exist_ok=True)
        self._last += 1
        self._sizes[self._last] = 0
        self._file = segment_path(folder, self._last).open("xb")

    def _folder(self) -> Path:
        if self._directory is None:
            self._directory = Path(tempfile.mkdtemp(prefix="atoll-states-"))
            finalize(self, shutil.rmtree, self._directory, ignore_errors=True)
        return self._directory


def segment_path(directory: Path, segment: int) -> Path:
    """Return the path of a segment."""
    return directory / f"segment-{segment:06d}"


def read_state(directory: Path, reference: StateReference) -> bytes:
    """Read a state.

    Raises
    ------
    CorruptCheckpointError
        If it cannot be read, or is not what was written.
    """
    path = segment_path(directory, reference.segment)
    try:
        file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            state = os.pread(file, reference.length, reference.offset)
        finally:
            os.close(file)
    except OSError as error:
        raise CorruptCheckpointError(f"{path}: cannot be read ({error})") from error
    if hashlib.sha256(state).digest() != reference.digest:
        raise CorruptCheckpointError(f"{path}: differs from what was written")
    return state
