"""Runs as they are compared and plotted: configuration, data, seed and rounds of each."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa

from atoll.errors import RunDirectoryError
from atoll.lazy import LazyModule
from atoll.platform.config.experiment import ADDED_TABLES
from atoll.platform.results.labels import flattened
from atoll.platform.run_directory.identity import RunIdentity, relevant
from atoll.platform.run_directory.run_files import (
    APP_TABLE,
    CONFIG,
    ROUND_ONLY,
    check_run_directory,
    read_config,
    read_result,
    read_rounds,
)
from atoll.platform.sweeps.trial_rows import EARLY, FINISHED, TABLE, TRIALS, read_trials

SWEEP_FILE, ARENA_FILE = "sweep.toml", "arena.toml"
RESULTS_OF_AN_ARENA = "results.parquet"
# A folder with a file of such a name may be the user's own, with the experiment in it.
INSIDE = {ARENA_FILE: "federations", SWEEP_FILE: TRIALS}
Kind = Literal["run", "sweep", "arena"]
# It loads PyTorch.
known_datasets = LazyModule("atoll.clients.data.catalog.known_datasets")


@dataclass(frozen=True)
class DataKey:
    """What figures are of: the examples that a run's models were evaluated on.

    Attributes
    ----------
    dataset : str
        The data set's name.
    contents : str
        The SHA-256 of its contents; of one that the run's seed draws, its options.
    held_out : tuple[str, ...]
        Domains that no client had.
    test_examples : int or None
        ``data.test_examples``.
    """

    dataset: str
    contents: str
    held_out: tuple[str, ...]
    test_examples: int | None

    def __str__(self) -> str:
        parts = [self.dataset]
        if self.held_out:
            parts.append(f"held out {' and '.join(self.held_out)}")
        if self.test_examples is not None:
            parts.append(f"{self.test_examples} test examples")
        return ", ".join(parts)


@dataclass(frozen=True)
class Recorded:
    """A run, read from its directory.

    Attributes
    ----------
    directory : Path
        The run directory.
    name : str
        Its name.
    seed : int
        ``run.seed``.
    config : dict
        Dotted keys and values of all that its results depend on, without the seed.
    data : DataKey
        What its figures are of.
    rounds : Table
        ``rounds.parquet``.
    versions : dict[str, str]
        Of Python and packages, by ``versions.NAME``.
    is_finished : bool
        Whether it has a result, or its sweep stopped it early.
    method : str
        The method's name in its sweep; empty outside of one.
    hyperparameters : str
        The sweep's other choices, as JSON.
    """

    directory: Path
    name: str
    seed: int
    config: Mapping[str, Any]
    data: DataKey
    rounds: pa.Table = field(repr=False)
    versions: Mapping[str, Any] = field(default_factory=dict)
    is_finished: bool = True
    method: str = ""
    hyperparameters: str = "{}"


def kind_of(directory: Path) -> Kind | None:
    """Return what a directory is of; None if it is of nothing that Atoll knows."""
    if (directory / CONFIG).is_file():
        return "run"
    if _has(directory, ARENA_FILE):
        return "arena"
    return "sweep" if (directory / TABLE).is_file() or _has(directory, SWEEP_FILE) else None


def _has(directory: Path, name: str) -> bool:
    return (directory / name).is_file() and (directory / INSIDE[name]).is_dir()


def read_recorded(directories: Sequence[Path]) -> list[Recorded]:
    """Read runs, and the trials of sweeps that results are reported of.

    Parameters
    ----------
    directories : Sequence[Path]
        Of runs and sweeps.

    Raises
    ------
    RunDirectoryError
        If one is of neither, or cannot be read; or if there is no run in any.
    """
    found: list[Recorded] = []
    for directory in directories:
        if kind_of(directory) == "sweep":
            found += _trials(directory)
        else:
            check_run_directory(directory)
            found.append(read_one(directory))
    if not found:
        named = ", ".join(map(str, directories))
        raise RunDirectoryError(f"{named}: has no trial with a result; expected at least one")
    return found


def read_one(directory: Path, **more: Any) -> Recorded:
    """Read a run; ``more`` are attributes that its directory does not tell."""
    written = read_config(directory)
    tables = {k: v for k, v in written.items() if k not in ADDED_TABLES}
    versions = {k: v for k, v in written.items() if k in ADDED_TABLES}
    rounds = read_rounds(directory, ROUND_ONLY)
    seed, config = _seed_and_config(tables)
    known = {"is_finished": read_result(directory) is not None, **more}
    return Recorded(
        directory,
        directory.resolve().name,
        seed,
        config,
        data_key(tables, RunIdentity.read(directory)),
        rounds,
        dict(flattened(versions)),
        **known,
    )


def data_key(tables: Mapping[str, Any], identity: RunIdentity | None) -> DataKey:
    """Return what the figures of a run with this configuration are of."""
    if APP_TABLE in tables:
        # Its data are the app's own: the same app is taken to have the same.
        return DataKey(f"of the app {tables[APP_TABLE].get('app_dir')}", "", (), None)
    data = tables["data"]
    name, options = str(data.get("dataset", "?")), data.get("options", {})
    contents = json.dumps(options, sort_keys=True)
    key = name.casefold()
    datasets = known_datasets.DATASETS
    is_drawn = key in datasets and datasets[key].base is not None and "seed" not in options
    if identity is not None and not is_drawn:
        contents = identity.data.get(name, contents)
    held_out = tuple(sorted(map(str, data.get("held_out", ()))))
    return DataKey(name, contents, held_out, data.get("test_examples"))


def _seed_and_config(tables: Mapping[str, Any]) -> tuple[int, dict[str, Any]]:
    sections = {name: table for name, table in tables.items() if isinstance(table, Mapping)}
    config = dict(flattened(relevant(sections)))
    seed = config.pop("run.seed", config.pop(f"{APP_TABLE}.seed", 0))
    return seed if isinstance(seed, int) else 0, config


def _trials(directory: Path) -> Iterator[Recorded]:
    """Yield a sweep's trials that have ended, without those for validation alone."""
    for row in read_trials(directory):
        if row["status"] in (FINISHED, EARLY) and not row["for_validation"]:
            yield read_one(
                directory / TRIALS / Path(row["directory"]).name,
                is_finished=True,
                method=str(row["method"]),
                hyperparameters=str(row["hyperparameters"]),
            )
