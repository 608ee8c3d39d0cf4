"""What a live page shows: a run, a sweep or an arena, read from its directory.

A directory is only read. Reports are written into a folder of the watcher's own, so that one that
is out of date never replaces the run's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Protocol

from atoll.attacks.arena.result_store import JobStore
from atoll.errors import RunDirectoryError
from atoll.files.reading import read_toml
from atoll.platform.arenas.arena import (
    ARENA_CONFIG,
    FEDERATIONS,
    JOBS,
    RESULTS,
)
from atoll.platform.arenas.jobs_file import JOBS_FILE, read_jobs
from atoll.platform.cli.watching.run_standing import read_info, standing_of
from atoll.platform.reports.arena_report import write_arena_report
from atoll.platform.reports.run_report import REPORT, write_report
from atoll.platform.results.comparison import compare
from atoll.platform.results.comparison_page import PAGE, write_page
from atoll.platform.results.recorded import kind_of
from atoll.platform.run_directory.run_files import (
    CONFIG,
    ROUND_ONLY,
    ROUNDS,
    read_result,
    read_rounds,
)
from atoll.platform.sweeps.trial_rows import TABLE, TRIALS, WAITING, read_trials


@dataclass(frozen=True)
class Part:
    """A trial of a sweep, or a federation of an arena.

    Attributes
    ----------
    name : str
        Its name.
    folder : str
        The name of its run directory; empty if there is none yet.
    state : str
        "waiting", "round 3/10", "finished", "failed", ...
    figures : str
        Its last metrics, in words; or why it failed.
    """

    name: str
    folder: str
    state: str
    figures: str


@dataclass(frozen=True)
class Standing:
    """How something that runs stands.

    Attributes
    ----------
    text : str
        One line.
    has_ended : bool
        Whether nothing will change any more.
    parts : tuple[Part, ...]
        What it consists of.
    """

    text: str
    has_ended: bool = False
    parts: tuple[Part, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Return it as JSON can hold it."""
        return asdict(self)


class View(Protocol):
    """A directory as a live page shows it."""

    directory: Path

    def stamp(self) -> object:
        """Return what changes whenever the report would."""

    def standing(self) -> Standing:
        """Return how it stands."""

    def write(self, folder: Path) -> Path | None:
        """Write the report into a folder of the directory's name; None if there is none yet."""


def view_of(directory: Path) -> View:
    """Return the view of a run, sweep or arena directory.

    Raises
    ------
    RunDirectoryError
        If it is none of them.
    """
    views: dict[str, Callable[[Path], View]] = {
        "run": RunView,
        "sweep": SweepView,
        "arena": ArenaView,
    }
    kind = kind_of(directory)
    if kind is None:
        raise RunDirectoryError(
            f"{directory}: is no run, sweep or arena directory (it has neither {CONFIG} nor "
            f"{TABLE} nor {ARENA_CONFIG})"
        )
    return views[kind](directory)


class RunView:
    """A run and its report."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def stamp(self) -> object:
        """Return the states of its files, as far as the report is made of them."""
        return _states(path for path in _files(self.directory) if path.name != REPORT)

    def standing(self) -> Standing:
        """Return how many of its rounds have ended."""
        result = read_result(self.directory)
        if result is not None:
            return Standing(f"finished, {result['rounds']} rounds", has_ended=True)
        info = read_info(self.directory)
        if info is None:
            return Standing("its rounds have not begun")
        rounds = read_rounds(self.directory, ROUND_ONLY)
        last = rounds.column("round")[-1].as_py() if len(rounds) else 0
        return Standing(f"running, round {last} of {info.num_rounds}")

    def write(self, folder: Path) -> Path | None:
        """Write its report."""
        if not (self.directory / ROUNDS).exists():
            return None
        for path in _files(self.directory):
            link = folder / path.name
            if path.name != REPORT and not link.is_symlink():
                link.symlink_to(path.absolute())
        return write_report(folder)


class SweepView:
    """A sweep: its trials, and the comparison of those that have ended."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def stamp(self) -> object:
        """Return the state of the table of trials."""
        return _states([self.directory / TABLE])

    def standing(self) -> Standing:
        """Return how its trials stand."""
        parts, ended = _trials(self.directory)
        text = f"{ended} of {len(parts)} trials ended"
        return Standing(text, ended == len(parts), parts)

    def write(self, folder: Path) -> Path | None:
        """Write the comparison of the trials with results."""
        try:
            comparison = compare([self.directory])
        except RunDirectoryError:
            # So it is with no trial that has ended; of what else is wrong the table tells.
            return None
        write_page(comparison, folder / PAGE)
        return folder / PAGE


class ArenaView:
    """An arena: its federations, and the report of the attacks that have ended."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._store = JobStore(directory / JOBS)

    def stamp(self) -> object:
        """Return which attacks have ended."""
        jobs = self.directory / JOBS
        ended = sorted(path.name for path in jobs.iterdir()) if jobs.is_dir() else []
        return ended, _states([self.directory / JOBS_FILE, self.directory / RESULTS])

    def standing(self) -> Standing:
        """Return how its federations and attacks stand."""
        federations = self.directory / FEDERATIONS
        parts, ended = _trials(federations) if (federations / TABLE).exists() else ((), 0)
        text = f"{ended} of {len(parts)} federations ended"
        jobs = read_jobs(self.directory, {}).jobs
        if jobs:
            done = sum(job.key in self._store for job in jobs)
            text += f", {done} of {len(jobs)} attacks ended"
        return Standing(text, (self.directory / RESULTS).exists(), parts)

    def write(self, folder: Path) -> Path | None:
        """Write the report of the attacks that have ended."""
        tables = read_toml(self.directory / ARENA_CONFIG)
        recorded = read_jobs(self.directory, tables)
        ended = [job for job in recorded.jobs if job.key in self._store]
        rows = [
            {"key": job.key, **job.labels, **row}
            for job in ended
            for row in self._store.rows(job.key)
        ]
        if not rows:
            return None
        facts = recorded.facts
        waiting = {job.key for job in recorded.jobs} - {job.key for job in ended}
        facts = replace(facts, attacks_left=len(waiting - facts.failed.keys()))
        settings = tables.get("arena", {})
        baseline = settings.get("baseline") or next(iter(settings.get("attacks", {})), "")
        keeps = settings.get("pictures", False)
        images = {job.key: self._store.images(job.key) for job in ended} if keeps else {}
        return write_arena_report(folder, rows, str(baseline), images, facts)


def trial_directories(directory: Path) -> dict[str, Path]:
    """Return the run directories of a sweep's trials, or an arena's federations, by their names."""
    kind = kind_of(directory)
    home = {"sweep": directory, "arena": directory / FEDERATIONS}.get(str(kind))
    if home is None or not (home / TABLE).exists():
        return {}
    names = [Path(row["directory"]).name for row in read_trials(home)]
    return {name: home / TRIALS / name for name in names if (home / TRIALS / name).is_dir()}


def _trials(directory: Path) -> tuple[tuple[Part, ...], int]:
    """Return a sweep's trials, and how many have ended."""
    rows = read_trials(directory)
    parts = []
    for row in rows:
        place = directory / TRIALS / Path(row["directory"]).name
        folder = place.name if (place / CONFIG).is_file() else ""
        parts.append(Part(row["trial"], folder, *standing_of(row, place)))
    return tuple(parts), sum(row["status"] != WAITING for row in rows)


def _files(directory: Path) -> list[Path]:
    return sorted(path for path in directory.iterdir() if path.is_file())


def _states(paths: Iterable[Path]) -> list[tuple[str, int, int]]:
    """Return name, time and size of each file that is there."""
    found = []
    for path in paths:
        try:
            state = path.stat()
        except FileNotFoundError:
            continue
        found.append((path.name, state.st_mtime_ns, state.st_size))
    return found
