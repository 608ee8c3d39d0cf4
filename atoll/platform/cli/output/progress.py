"""Progress of a run in the terminal."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Column, Table

from atoll.platform.callbacks.observers import Observer, RoundRecord, RunInfo
from atoll.platform.callbacks.round_figures import final_figures, line_of
from atoll.platform.cli.output.round_table import RoundTable

# Without a terminal, at most one line in so many seconds.
LINE_SECONDS = 1.0


class ConsoleProgress(Observer):
    """A table of rounds above a bar on a terminal, plain lines elsewhere (an observer).

    Parameters
    ----------
    console : Console, optional
        Where to; standard output by default.
    live : bool
        Whether rounds are shown at all.
    lines : bool
        Whether there is a line a round where there is no terminal.
    """

    def __init__(
        self, console: Console | None = None, *, live: bool = True, lines: bool = True
    ) -> None:
        self._console = console or Console(highlight=False)
        self._live = live
        self._lines = live and lines
        self._progress: Progress | None = None
        self._task: Any = None
        self._last_line = float("-inf")
        self._parts: dict[str, Any] = {}
        self._table: RoundTable | None = None
        self._members = "clients"

    def on_start(self, run: RunInfo) -> None:
        """Say what begins."""
        self._members = run.members
        going_on = f", continuing from round {run.first_round}" if run.first_round > 1 else ""
        self._console.print(
            f"[bold]{escape(run.name)}[/bold]: {escape(run.strategy)}, "
            f"{run.clients:,} {run.members}, {run.parameters:,} parameters, "
            f"{run.num_rounds} rounds{going_on}, "
            f"{run.workers} {'worker' if run.workers == 1 else 'workers'} -> "
            f"{escape(str(run.directory))}",
            soft_wrap=not self._console.is_terminal,
        )
        for note in run.notes:
            self._console.print(
                f"  {escape(note)}", style="dim", soft_wrap=not self._console.is_terminal
            )
        if self._live and self._console.is_terminal and run.first_round <= run.num_rounds:
            self._progress = Progress(
                TextColumn("{task.description}"),
                MofNCompleteColumn(),
                # Its width is what the others leave: of them nothing may be cut.
                BarColumn(bar_width=None, table_column=Column(max_width=24)),
                TextColumn("{task.fields[figures]}"),
                TimeRemainingColumn(),
                console=self._console,
            )
            self._task = self._progress.add_task(
                "round", total=run.num_rounds, completed=run.first_round - 1, figures=""
            )
            self._progress.start()

    def on_clients(self, kind: str, ended: int, of: int) -> None:
        """Show how far the running round is."""
        if self._progress is not None:
            self._progress.update(self._task, figures=f"{kind}: {ended} of {of} clients")

    def on_unit(self, name: str, server_round: int, num_rounds: int) -> None:
        """Show how far a unit of layer-wise training is: a bar each, above the rounds'."""
        if self._progress is None:
            return
        if name not in self._parts:
            self._parts[name] = self._progress.add_task(name, total=num_rounds, figures="")
        self._progress.update(self._parts[name], completed=server_round)

    def on_round(self, record: RoundRecord) -> None:
        """Show a round."""
        if self._console.is_terminal and self._live:
            self._add_to_table(record)
            return
        is_last = record.server_round == record.num_rounds
        if self._lines and (is_last or time.monotonic() - self._last_line >= LINE_SECONDS):
            self._last_line = time.monotonic()
            line = line_of(record, self._members)
            self._console.print(line, soft_wrap=True, markup=False)

    def _add_to_table(self, record: RoundRecord) -> None:
        """Print a round's line; a bar that is there stays beneath."""
        if self._table is None:
            self._table = RoundTable(record.num_rounds)
        for line in self._table.headings(record):
            self._console.print(line, style="dim", soft_wrap=True, markup=False)
        self._console.print(self._table.row(record), soft_wrap=True, markup=False)
        if self._progress is not None:
            self._progress.update(self._task, completed=record.server_round, figures="")

    def on_end(self, result: Mapping[str, Any]) -> None:
        """Show the final figures and where the report is."""
        self.close()
        table = Table(show_header=False, box=None, pad_edge=False)
        table.add_row("rounds", str(result["rounds"]))
        for name, figure in final_figures(result["metrics"]).items():
            table.add_row(escape(name), figure)
        if "failed_layers" in result:
            table.add_row("failed layers", escape(", ".join(result["failed_layers"])) or "none")
        else:
            table.add_row("client errors", str(result.get("errors", 0)))
        table.add_row("seconds", f"{result['wall_seconds']:.1f}")
        if result["parameters_sha256"] is not None:
            table.add_row("parameters sha256", str(result["parameters_sha256"])[:16])
        self._console.print(table)
        # Not in the table, which would cut a long path to the terminal's width.
        self._console.print(f"report: {result['report']}", soft_wrap=True, markup=False)

    def close(self) -> None:
        """Take the live bar down."""
        if self._progress is not None:
            self._progress.stop()
            self._progress = None
