"""Data on every node: found at the driver's path, or brought there once from the driver's node.

Workers map their data from disk. Where the path is shared, or the node's own cache has the same
contents, nothing is sent. Elsewhere the first worker of a node gets the files in blocks through
the object store, writes them under the same path, and the node's other workers find them there.
"""

from __future__ import annotations

import fcntl
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import ray
from numpy.typing import NDArray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from atoll.errors import DataUnavailableError
from atoll.files.atomic import appearing
from atoll.platform.cluster.bounded_waits import answer

# Bytes that are sent at a time: a node need not hold a data set in memory.
BLOCK = 1 << 26
# Files up to this size are compared by their contents; they hold the hash of the larger ones'.
SMALL = 1 << 16


@dataclass(frozen=True)
class DataFolder:
    """A folder of data as it is on the driver's node.

    Attributes
    ----------
    path : Path
        Where it is.
    sizes : tuple[tuple[str, int], ...]
        Its files and their bytes, by name.
    sha256 : str
        A hash of the small files' contents. A data set's ``dataset.json`` is one, and has the hash
        of its contents; a partition's folder is named by its own.
    """

    path: Path
    sizes: tuple[tuple[str, int], ...]
    sha256: str

    @classmethod
    def at(cls, path: Path) -> DataFolder:
        """Describe a folder; its large files are not read."""
        files = sorted(file for file in path.iterdir() if file.is_file())
        digest = hashlib.sha256()
        for file in files:
            if file.stat().st_size <= SMALL:
                digest.update(file.name.encode() + b"\0" + file.read_bytes())
        sizes = tuple((file.name, file.stat().st_size) for file in files)
        return cls(path, sizes, digest.hexdigest())

    def is_here(self) -> bool:
        """Tell whether this node has it, with the same contents.

        Raises
        ------
        DataUnavailableError
            If there is something else at its path.
        """
        if not self.path.exists():
            return False
        if DataFolder.at(self.path) == self:
            return True
        raise DataUnavailableError(
            f"{self.path}: holds other data on this node than on the driver's; expected the same "
            "(set ATOLL_CACHE to a folder that all nodes share, or remove this node's copy)"
        )


@dataclass(frozen=True)
class NodeData:
    """The data that workers need.

    Attributes
    ----------
    folders : tuple[DataFolder, ...]
        What they open.
    home : str
        The Ray id of the driver's node.
    """

    folders: tuple[DataFolder, ...]
    home: str

    @classmethod
    def of(cls, paths: Sequence[Path]) -> NodeData:
        """Describe folders on this node."""
        home = str(ray.get_runtime_context().get_node_id())
        return cls(tuple(DataFolder.at(path) for path in paths), home)

    def bring(self) -> int:
        """See to it that this node has the data; return how many bytes were sent here for that.

        Raises
        ------
        DataUnavailableError
            If they cannot be written, or there is something else in their place.
        """
        return sum(_bring(folder, self.home) for folder in self.folders if not folder.is_here())


def _bring(folder: DataFolder, home: str) -> int:
    try:
        folder.path.parent.mkdir(parents=True, exist_ok=True)
        lock = (folder.path.parent / f".{folder.path.name}.lock").open("w")
    except OSError as error:
        raise DataUnavailableError(
            f"{folder.path}: cannot be written on this node ({error.strerror}); expected a folder "
            "that all nodes share, or may write to (ATOLL_CACHE)"
        ) from error
    with lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if folder.is_here():
            return 0
        pinned = NodeAffinitySchedulingStrategy(home, soft=False)
        read: Any = ray.remote(num_cpus=0, scheduling_strategy=pinned)(read_block)
        with appearing(folder.path) as partial:
            for name, size in folder.sizes:
                with (partial / name).open("wb") as file:
                    for start in range(0, size, BLOCK):
                        block = answer(
                            read.remote(folder.path / name, start, BLOCK),
                            f"{folder.path}: the driver's node, which sends it,",
                        )
                        file.write(block.data)
        if not folder.is_here():
            raise DataUnavailableError(f"{folder.path}: was not sent as a whole")
    return sum(size for _, size in folder.sizes)


def read_block(path: Path, start: int, count: int) -> NDArray[np.uint8]:
    """Return up to ``count`` bytes of a file (a task on the driver's node)."""
    return np.fromfile(path, np.uint8, count=count, offset=start)
