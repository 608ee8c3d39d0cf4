"""Results of an arena's jobs on disk: a folder a job, written atomically."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Self

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import BaseModel, ConfigDict, model_validator
from safetensors import SafetensorError
from safetensors.torch import load, save_file
from torch import Tensor

from atoll.attacks.arena.arena_job import JobResult
from atoll.attacks.captures.capture_files import MAX_BYTES, RAW_CLIENT_DATA
from atoll.attacks.metrics.kinds import MAIN
from atoll.errors import RunDirectoryError
from atoll.files.atomic import appearing
from atoll.files.manifests import read_verified, seal, verify
from atoll.files.reading import fitted

ROWS, SECONDS, IMAGES = "rows.parquet", "seconds.parquet", "images.safetensors"


class _Row(BaseModel):
    """Columns of an example's row that the report needs."""

    model_config = ConfigDict(extra="ignore", strict=True)

    attack: str
    threat: str
    label_source: str
    round: int
    node_id: int
    image: int
    psnr: float | None = None
    ssim: float | None = None
    lpips: float | None = None
    mse: float | None = None
    cell_accuracy: float | None = None
    number_accuracy: float | None = None
    category_accuracy: float | None = None
    trusted_accuracy: float | None = None
    token_accuracy: float | None = None
    rouge1: float | None = None
    rouge2: float | None = None
    exact_match: bool | None = None
    identified: bool
    label_accuracy: float | None

    @model_validator(mode="after")
    def _has_its_main_metric(self) -> Self:
        if all(getattr(self, metric) is None for metric in MAIN.values()):
            raise ValueError(f"has no metric; expected one of {', '.join(MAIN.values())}")
        return self


class JobStore:
    """Results of jobs, by their keys.

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
            files = [ROWS, SECONDS]
            if images and result.images is not None:
                truth, found = result.images
                both = {"truth": truth.contiguous(), "images": found.contiguous()}
                save_file(both, folder / IMAGES, metadata=RAW_CLIENT_DATA)
                files.append(IMAGES)
            seal(folder, files)

    def rows(self, key: str) -> list[dict[str, Any]]:
        """Return a finished job's rows.

        Raises
        ------
        RunDirectoryError
            If they cannot be read, are not what was written, or lack a column.
        """
        rows = self._read(key, ROWS)
        path = self._directory / key / ROWS
        fitted(rows, str(path), list[_Row])
        return rows

    def seconds(self, key: str) -> float:
        """Return the processor time of a finished job, in seconds."""
        rows = self._read(key, SECONDS)
        seconds = rows[0].get("cpu_seconds") if rows else None
        if not isinstance(seconds, float):
            raise self._refused(self._directory / key / SECONDS, "it has no cpu_seconds")
        return seconds

    def images(self, key: str) -> tuple[Tensor, Tensor] | None:
        """Return a finished job's true images and reconstructions, if they were kept."""
        path = self._directory / key / IMAGES
        if not path.is_file():
            return None
        try:
            both = load(read_verified(path, limit=MAX_BYTES))
            truth, images = both["truth"], both["images"]
            if truth.dim() != 4 or truth.shape != images.shape:
                raise ValueError("its images are not of one shape")
            return truth, images
        except (SafetensorError, KeyError, ValueError) as error:
            raise self._refused(path, error) from error

    def _read(self, key: str, name: str) -> list[dict[str, Any]]:
        path = self._directory / key / name
        try:
            verify(path)
            rows: list[dict[str, Any]] = pq.read_table(path).to_pylist()
        except (OSError, ValueError, MemoryError, pa.ArrowException) as error:
            raise self._refused(path, error) from error
        return rows

    def _refused(self, path: Path, problem: object) -> RunDirectoryError:
        said = " ".join(str(problem).split())
        return RunDirectoryError(
            f"{path}: cannot be read ({said}); without {path.parent} the job is run again"
        )
