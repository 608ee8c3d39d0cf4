"""Output of ``atoll attack``: progress, and a table of metrics."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from atoll.platform.attack_runs.attack_run import AttackRun, plain_table_of, title_of


class AttackProgress:
    """A bar of an attack's steps; called with how many of how many are done.

    Parameters
    ----------
    console : Console
        Where to.
    doing : str
        What stands before the bar.
    unit : str
        What is counted.
    """

    def __init__(self, console: Console, doing: str = "attacking", unit: str = "steps") -> None:
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.completed:.0f}/{task.total:.0f} " + unit),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=console,
            transient=True,
        )
        self._task = self._bar.add_task(doing, total=None, visible=False)

    def __call__(self, done: int, total: int) -> None:
        """Show the steps done."""
        self._bar.update(self._task, completed=done, total=total, visible=True)

    def __enter__(self) -> AttackProgress:
        self._bar.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._bar.stop()


def table_of(result: AttackRun) -> Table:
    """Return the metrics of an attack: mean, worst and best over all examples."""
    rows = result.rows
    first = rows[0]
    table = Table(
        title=title_of(result),
        caption=(
            f"{first['threat']}; labels {first['label_source']}; batches of "
            f"{_range([row['images'] for row in rows])}; model {first['model']}, BatchNorm "
            f"{first['batch_norm']}; {first['cpu_seconds']:.1f} CPU s"
        ),
        title_justify="left",
        caption_justify="left",
    )
    for column in ("", "mean", "least", "most"):
        table.add_column(column, justify="left" if column == "" else "right")
    for name, *figures in plain_table_of(result).rows:
        table.add_row(str(name), *(f"{figure:.4g}" for figure in figures))
    return table


def _range(values: Sequence[int]) -> str:
    low, high = min(values), max(values)
    return str(low) if low == high else f"{low} to {high}"
