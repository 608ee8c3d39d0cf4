"""``atoll watch``: a run or a sweep as its directory tells of it, from any machine that sees that.

Nothing is asked of the run itself: all comes from the ledger, which is whole at any moment. So it
works for a run on a cluster with shared storage, and for one that ended long ago.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from atoll.errors import RunDirectoryError
from atoll.files.manifests import MANIFEST
from atoll.platform.callbacks.metric_names import (
    ATTACK_SUCCESS,
    EVALUATE,
    MAIN,
    SERVER,
    TRAIN,
    metrics_in,
)
from atoll.platform.callbacks.observers import RoundRecord, RunInfo
from atoll.platform.cli.progress import ConsoleProgress
from atoll.platform.results.recorded import kind_of
from atoll.platform.run_directory.identity import IDENTITY
from atoll.platform.run_directory.run_files import (
    CONFIG,
    ROUNDS,
    has_table,
    read_config,
    read_engine,
    read_result,
    read_rounds_table,
)
from atoll.platform.run_directory.run_lock import is_free
from atoll.platform.sweeps.trials import FAILED, TABLE, TRIALS, WAITING, read_trials

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
    """Show a run or a sweep until it ends.

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
    if kind == "arena":
        raise RunDirectoryError(f"{directory}: is an arena; expected --web, or a run or a sweep")
    watched = RunWatch(directory, console) if kind == "run" else SweepWatch(directory, console)
    with watched:
        while not watched.look() and not once:
            sleep(every)


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
                f"has no {TABLE})"
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


def read_info(directory: Path) -> RunInfo | None:
    """Return what a run announced when its rounds began; None if they have not yet.

    Raises
    ------
    RunDirectoryError
        If it cannot be read.
    """
    engine = read_engine(directory)
    if engine is None:
        return None
    run = read_config(directory).get("run", {})
    return RunInfo(
        name=plain(str(run.get("name", directory.name)) if isinstance(run, dict) else "?"),
        directory=directory,
        num_rounds=engine.num_rounds,
        first_round=1,
        workers=engine.workers,
        clients=engine.clients,
        parameters=engine.parameters,
        strategy=engine.strategy,
        notes=engine.notes,
    )


def read_rounds(directory: Path) -> list[RoundRecord]:
    """Return the rounds in a run's ledger, without their clients.

    Raises
    ------
    RunDirectoryError
        If it cannot be read.
    """
    if not has_table(directory / ROUNDS):
        return []
    info = read_info(directory)
    last = 0 if info is None else info.num_rounds
    rows = read_rounds_table(directory / ROUNDS).to_pylist()
    return [_record_of(row, last) for row in rows]


def _record_of(row: Mapping[str, Any], num_rounds: int) -> RoundRecord:
    return RoundRecord(
        server_round=row["round"],
        num_rounds=num_rounds,
        seconds=row["seconds"],
        cohort=row["cohort"],
        replies=row["replies"],
        errors=row["errors"],
        examples=row["examples"],
        train_metrics=metrics_in(row, TRAIN),
        evaluate_metrics=metrics_in(row, EVALUATE),
        server_metrics=metrics_in(row, SERVER),
        bytes_down=row["bytes_down"],
        bytes_up=row["bytes_up"],
    )


class SweepWatch:
    """Shows a sweep's trials: a live table on a terminal, a line for each change elsewhere.

    Parameters
    ----------
    directory : Path
        The sweep directory.
    console : Console
        Where to.
    """

    def __init__(self, directory: Path, console: Console) -> None:
        self._directory = directory
        self._console = console
        self._live: Live | None = None
        self._said: dict[str, str] = {}

    def __enter__(self) -> SweepWatch:
        if self._console.is_terminal:
            self._live = Live(console=self._console, auto_refresh=False)
            self._live.start()
        return self

    def __exit__(self, *exception: object) -> None:
        if self._live is not None:
            self._live.stop()

    def look(self) -> bool:
        """Show what is new; return whether every trial has ended."""
        rows = read_trials(self._directory)
        standing = {row["key"]: (row["trial"], *standing_of(row, self._place(row))) for row in rows}
        ended = sum(row["status"] != WAITING for row in rows)
        summary = f"{ended} of {len(rows)} trials ended -> {self._directory}"
        if self._live is None:
            self._say(standing, summary)
        else:
            table = Table(box=None, pad_edge=False)
            for column in ("trial", "state", "figures"):
                table.add_column(column)
            for trial, state, figures in standing.values():
                table.add_row(*(Text(plain(text)) for text in (trial, state, figures)))
            self._live.update(Group(Text(summary), table), refresh=True)
        return bool(ended == len(rows))

    def _place(self, row: Mapping[str, Any]) -> Path:
        """Return a trial's run directory as it is seen from here."""
        return self._directory / TRIALS / Path(row["directory"]).name

    def _say(self, standing: Mapping[str, tuple[str, str, str]], summary: str) -> None:
        changed = False
        for key, (trial, state, figures) in standing.items():
            if self._said.get(key) != state and state != WAITING:
                line = f"{trial}: {state}{f', {figures}' if figures else ''}"
                self._console.print(plain(line), soft_wrap=True, markup=False)
                changed = True
            self._said[key] = state
        if changed or len(self._said) == 0:
            self._console.print(summary, soft_wrap=True, markup=False)


def plain(text: str) -> str:
    """Return a text without what would move a terminal's cursor."""
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


def standing_of(row: Mapping[str, Any], place: Path) -> tuple[str, str]:
    """Return a trial's state and its figures, in words."""
    if row["status"] == FAILED:
        return FAILED, str(row["error"])
    if row["status"] == WAITING and not (place / CONFIG).exists():
        return WAITING, ""
    rounds = read_rounds(place)
    metrics = rounds[-1].server_metrics if rounds else {}
    shown = (*MAIN, ATTACK_SUCCESS)
    figures = [f"{k} {v:.4f}" for k in shown if isinstance(v := metrics.get(k), float)]
    if row["status"] == WAITING:
        return f"round {len(rounds)}/{row['of_rounds']}", ", ".join(figures)
    if row["rounds"] != row["of_rounds"]:
        figures.insert(0, f"round {row['rounds']}/{row['of_rounds']}")
    return str(row["status"]), ", ".join(figures)
