"""Progress of a sweep in the terminal."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from atoll.platform.callbacks.metric_names import SERVER_ACCURACY, label_of
from atoll.platform.sweeps.sweep import TrialEnd


class SweepProgress:
    """A line a trial, and on a terminal a bar beneath.

    Parameters
    ----------
    console : Console
        Where to.
    directory : Path
        The sweep directory, shown at the start.
    """

    def __init__(self, console: Console, directory: Path) -> None:
        self._console = console
        self._directory = directory
        self._progress: Progress | None = None
        self._task: Any = None

    def on_start(self, trials: int, finished: int, parallel: int) -> None:
        """Say what there is to do."""
        ready = f", {finished} finished already" if finished else ""
        at_once = f", {parallel} at a time" if parallel else ""
        self._console.print(f"{trials} trials{ready}{at_once} -> {self._directory}", soft_wrap=True)
        if self._console.is_terminal and finished < trials:
            self._progress = Progress(
                TextColumn("trial"),
                MofNCompleteColumn(),
                BarColumn(bar_width=24),
                TimeRemainingColumn(),
                console=self._console,
            )
            self._task = self._progress.add_task("", total=trials, completed=finished)
            self._progress.start()

    def on_end(self, end: TrialEnd) -> None:
        """Print the result of a trial."""
        accuracy = end.metrics.get(SERVER_ACCURACY)
        figure = "finished" if accuracy is None else f"accuracy {accuracy:.4f}"
        if end.is_stopped:
            [(metric, value)] = end.metrics.items()
            figure = f"stopped early with {label_of(metric)} {value:.4f}"
        outcome = f"{figure}, {end.seconds:.1f} s" if end.error is None else f"failed: {end.error}"
        line = f"[{end.done}/{end.of}] {end.trial}: {outcome}"
        self._console.print(line, soft_wrap=True, markup=False)
        if self._progress is not None:
            self._progress.update(self._task, completed=end.done)

    def __enter__(self) -> SweepProgress:
        return self

    def __exit__(self, *exception: object) -> None:
        if self._progress is not None:
            self._progress.stop()
