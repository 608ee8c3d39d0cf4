"""Progress of a training on public data, on a terminal or in lines."""

from __future__ import annotations

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

# Without a terminal, a line in so many steps.
LINE_STEPS = 500


class TrainingProgress:
    """A bar on a terminal, lines elsewhere.

    Parameters
    ----------
    console : Console
        Where it goes.
    steps : int
        How many there will be.
    unit : str
        Of the loss, with a space before it.
    """

    def __init__(self, console: Console, steps: int, unit: str = "") -> None:
        self._console, self._steps, self._unit = console, steps, unit
        self._bar = Progress(
            TextColumn("step"),
            MofNCompleteColumn(),
            BarColumn(bar_width=24),
            TextColumn("{task.fields[figures]}"),
            TimeRemainingColumn(),
            console=console,
            disable=not console.is_terminal,
        )
        self._task = self._bar.add_task("", total=steps, figures="")

    def __enter__(self) -> TrainingProgress:
        self._bar.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._bar.stop()

    def on_step(self, done: int, loss: float) -> None:
        """Show how far it is."""
        figures = f"loss {loss:.4f}{self._unit}"
        self._bar.update(self._task, completed=done, figures=figures)
        if not self._console.is_terminal and (done % LINE_STEPS == 0 or done == self._steps):
            self._console.print(f"step {done}/{self._steps}  {figures}", soft_wrap=True)
