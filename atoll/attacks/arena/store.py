"""The results of an arena's jobs on disk: a folder a job, there as a whole or not at all."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from atoll.attacks.arena.job import JobResult
from atoll.attacks.capture_files import RAW_CLIENT_DATA
from atoll.clients.data.cache import appearing
from atoll.errors import RunDirectoryError

ROWS, SECONDS, IMAGES = "rows.parquet", "seconds.parquet", "images.safetensors"


class JobStore:
    """What jobs have come to, by their keys.

    Parameters
    ----------
    directory : Path
        Holds a folder a finished job: its rows, what it cost, and its images where they are kept.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def __contains__(self, key: object) -> bool:
        return (self._directory / str(key) / ROWS).is_file()

    def write(self, key: str, result: JobResult, *, images: bool) -> None:
        """Keep a job's result.

        Parameters
        ----------
        images : bool
            Whether the true images and the reconstructions are kept.
        """
        with appearing(self._directory / key) as folder:
            pq.write_table(pa.Table.from_pylist(result.rows), folder / ROWS)
            cost = pa.Table.from_pylist([{"key": key, "cpu_seconds": result.seconds}])
            pq.write_table(cost, folder / SECONDS)
            if images:
                both = {"truth": result.truth.contiguous(), "images": result.images.contiguous()}
                save_file(both, folder / IMAGES, metadata=RAW_CLIENT_DATA)

    def rows(self, key: str) -> list[dict[str, Any]]:
        """Return a finished job's rows."""
        return self._read(key, ROWS)

    def seconds(self, key: str) -> float:
        """Return what a finished job cost, in seconds of processor time."""
        return float(self._read(key, SECONDS)[0]["cpu_seconds"])

    def images(self, key: str) -> tuple[Tensor, Tensor] | None:
        """Return a finished job's true images and reconstructions, if they were kept."""
        path = self._directory / key / IMAGES
        if not path.is_file():
            return None
        try:
            both = load_file(path)
            return both["truth"], both["images"]
        except (OSError, SafetensorError, KeyError) as error:
            raise RunDirectoryError(f"{path}: cannot be read ({error})") from error

    def _read(self, key: str, name: str) -> list[dict[str, Any]]:
        path = self._directory / key / name
        try:
            rows: list[dict[str, Any]] = pq.read_table(path).to_pylist()
        except (OSError, pa.ArrowException) as error:
            raise RunDirectoryError(f"{path}: cannot be read ({error})") from error
        return rows
