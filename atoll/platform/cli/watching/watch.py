"""``atoll watch``: a run, a sweep or an arena, as its directory tells of it on any machine.

Nothing is asked of the run itself: all comes from the ledger, which is whole at any moment. So it
works for a run on a cluster with shared storage, and for one that ended long ago.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from atoll.errors import RunDirectoryError
from atoll.files.manifests import MANIFEST
from atoll.platform.callbacks.observers import RoundRecord, RunInfo
from atoll.platform.cli.output.progress import ConsoleProgress
from atoll.platform.cli.watching.run_standing import read_info, read_rounds
from atoll.platform.results.recorded import kind_of
from atoll.platform.run_directory.identity import IDENTITY
from atoll.platform.run_directory.run_files import (
    CONFIG,
    ROUNDS,
    read_result,
)
from atoll.platform.run_directory.run_lock import is_free
from atoll.platform.sweeps.trial_rows import TABLE

if TYPE_CHECKING:
    from atoll.platform.cli.watching.standing_watch import StandingWatch

EVERY_SECONDS = 2.0
PAGE = 40
# A run that has been silent for so many times its usual round, and so long, may be dead.
SILENT_ROUNDS, SILENT_SECONDS = 10.0, 60.0


def watch(
    directory: Path,
    console: Console,
    *,
    once: bool = False,
    every: float = EVERY_SECONDS,
    sleep: Callable[[float], None] = time.sleep,
) -> None:
    """Show a run, a sweep or an arena until it ends.

    Parameters
    ----------
    directory : Path
        Its directory; unless ``once``, it need not be there yet.
    console : Console
        Where to.
    once : bool
        Whether to show how it stands and return.
    every : float
        Seconds between looks.
    sleep : Callable
        Waits.

    Raises
    ------
    RunDirectoryError
        If the directory is of something else, or cannot be read.
    """
    kind = wait_for(directory, console, sleep, every=None if once else every)
    with _watch_of(kind, directory, console) as watched:
        while not watched.look() and not once:
            sleep(every)


def _watch_of(kind: str, directory: Path, console: Console) -> RunWatch | StandingWatch:
    if kind == "run":
        return RunWatch(directory, console)
    # A run needs neither the reports nor the attacks.
    from atoll.platform.cli.live_page.views import view_of
    from atoll.platform.cli.watching.standing_watch import StandingWatch

    return StandingWatch(view_of(directory), console)


def wait_for(
    directory: Path,
    console: Console,
    sleep: Callable[[float], None] = time.sleep,
    *,
    every: float | None = EVERY_SECONDS,
) -> str:
    """Return what a directory is of ("run", "sweep" or "arena"), as soon as that can be known.

    Parameters
    ----------
    directory : Path
        Need not be there yet.
    console : Console
        Is told of a wait.
    sleep : Callable
        Waits.
    every : float or None
        Seconds between looks; None looks once.

    Raises
    ------
    RunDirectoryError
        If it is of something else.
    """
    waited = False
    while (kind := kind_of(directory)) is None or not _has_begun(directory, kind):
        # A run that is about to begin has its lock and its identity there.
        is_full = directory.is_dir() and not is_free(directory, left=(IDENTITY, MANIFEST))
        if every is None or directory.is_file() or (waited and is_full and kind is None):
            raise RunDirectoryError(
                f"{directory}: is neither a run directory (it has no {CONFIG}) nor a sweep's (it "
                f"has no {TABLE}), nor an arena's (it has no arena.toml)"
            )
        if not waited:
            console.print(f"waiting for {directory}", soft_wrap=True)
        waited = True
        sleep(every)
    return kind


def _has_begun(directory: Path, kind: str) -> bool:
    return kind != "sweep" or (directory / TABLE).is_file()


class RunWatch:
    """Shows a run's rounds as they come, as the run itself would.

    Parameters
    ----------
    directory : Path
        The run directory.
    console : Console
        Where to.
    """

    def __init__(self, directory: Path, console: Console) -> None:
        self._directory = directory
        self._console = console
        self._progress = ConsoleProgress(console)
        self._info: RunInfo | None = None
        self._shown = 0
        self._is_silent = False

    def __enter__(self) -> RunWatch:
        return self

    def __exit__(self, *exception: object) -> None:
        self._progress.close()

    def look(self) -> bool:
        """Show what is new; return whether the run has ended."""
        # In this order: a result that is there now has all its rounds in the table.
        result = read_result(self._directory)
        rounds = read_rounds(self._directory)
        if self._info is None:
            self._info = read_info(self._directory)
            if self._info is None:
                return False
            self._progress.on_start(self._info)
        new = [record for record in rounds if record.server_round > self._shown]
        if rounds and rounds[-1].server_round < self._shown:
            self._console.print(f"the run went back to round {rounds[-1].server_round}")
        # A terminal's table has a line a round; of those before the first look, a page at most.
        lines = PAGE if self._console.is_terminal else 1
        for record in new[-lines:]:
            self._progress.on_round(record)
        self._shown = rounds[-1].server_round if rounds else 0
        if result is not None:
            report = self._directory / "report.html"
            made = str(report) if report.exists() else f"by 'atoll report {self._directory}'"
            self._progress.on_end({**result, "report": made})
            return True
        self._say_if_silent(rounds)
        return False

    def _say_if_silent(self, rounds: list[RoundRecord]) -> None:
        if not rounds:
            return
        usual = sum(record.seconds for record in rounds) / len(rounds)
        silent = time.time() - (self._directory / ROUNDS).stat().st_mtime
        is_silent = silent > max(SILENT_SECONDS, SILENT_ROUNDS * usual)
        if is_silent and not self._is_silent:
            self._console.print(
                f"no news for {silent:.0f} s (a round took {usual:.1f} s); if nobody runs it, go "
                f"on with: atoll resume {self._directory}",
                soft_wrap=True,
            )
        self._is_silent = is_silent
