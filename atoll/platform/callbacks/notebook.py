"""Progress of a run in a notebook: a small table that changes in place."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from html import escape
from typing import Any

from atoll import flower
from atoll.platform.callbacks.observers import Observer, RoundRecord, RunInfo
from atoll.platform.callbacks.round_figures import RoundColumns, failures, line_of

# The last rounds; a notebook keeps its outputs, and the ledger has them all.
ROWS = 10
# Each change is a message to the browser.
SECONDS = 0.25


def notebook_progress() -> list[Observer]:
    """Return the progress for the notebook that this process runs cells of; none elsewhere.

    Flower's own lines, which say it all twice and in a terminal's colours, are left out then.
    """
    ipython = sys.modules.get("IPython")
    shell = None if ipython is None else ipython.get_ipython()
    if shell is None or not hasattr(shell, "kernel"):
        return []
    flower.log_errors_only()
    return [NotebookProgress(ipython)]


class NotebookProgress(Observer):
    """A table of the last rounds below the cell (an observer).

    Parameters
    ----------
    ipython : module
        IPython.
    """

    def __init__(self, ipython: Any) -> None:
        self._display = ipython.display.display
        self._handle: Any = None
        self._columns = RoundColumns()
        self._rounds: list[RoundRecord] = []
        self._head, self._doing, self._done, self._of = "", "", 0, 0
        self._members = "clients"
        self._shown = float("-inf")

    def on_start(self, run: RunInfo) -> None:
        """Show the table, empty."""
        self._members = run.members
        self._done, self._of = run.first_round - 1, run.num_rounds
        self._head = (
            f"{run.name}: {run.strategy}, {run.clients:,} {run.members}, {run.parameters:,} "
            f"parameters, {run.workers} {'worker' if run.workers == 1 else 'workers'} "
            f"→ {run.directory}"
        )
        self._handle = self._display(self._content(), raw=True, display_id=True)

    def on_clients(self, kind: str, ended: int, of: int) -> None:
        """Show how far the running round is."""
        self._doing = f"{kind}: {ended} of {of} clients"
        self._update()

    def on_unit(self, name: str, server_round: int, num_rounds: int) -> None:
        """Show how far a unit of layer-wise training is."""
        self._doing = f"{name}: {server_round} of {num_rounds}"
        self._update()

    def on_round(self, record: RoundRecord) -> None:
        """Add a round."""
        self._columns.widen(record)
        self._rounds = [*self._rounds, record][-ROWS:]
        self._done, self._of, self._doing = record.server_round, record.num_rounds, ""
        self._update()

    def on_end(self, result: Mapping[str, Any]) -> None:
        """Show where the report is."""
        self._doing = f"finished in {result['wall_seconds']:.1f} s; report: {result['report']}"

    def close(self) -> None:
        """Show the last state."""
        self._shown = float("-inf")
        self._update()

    def _update(self) -> None:
        if self._handle is None or time.monotonic() - self._shown < SECONDS:
            return
        self._shown = time.monotonic()
        self._handle.update(self._content(), raw=True)

    def _content(self) -> dict[str, str]:
        state = f"round {self._done}/{self._of}"
        lines = [self._head, *(line_of(record, self._members) for record in self._rounds)]
        plain = "\n".join([*lines, f"{state}  {self._doing}".rstrip()])
        bar = f'<progress max="{max(self._of, 1)}" value="{self._done}"></progress>'
        below = f"<div>{bar} {escape(state)} {escape(self._doing)}</div>"
        return {
            "text/plain": plain,
            "text/html": f"<div>{escape(self._head)}</div>{self._table()}{below}",
        }

    def _table(self) -> str:
        if not self._rounds:
            return ""
        names = [f"{label} {name}" for label, name in self._columns.shown]
        rows = [
            [
                f"{record.server_round}",
                *self._columns.cells(record),
                f"{record.replies}/{record.cohort}{failures(record)}",
                f"{record.seconds:.2f}",
            ]
            for record in self._rounds
        ]
        head = _row(["round", *names, self._members, "seconds"], "th")
        return f"<table>{head}{''.join(_row(row, 'td') for row in rows)}</table>"


def _row(cells: list[str], tag: str) -> str:
    return f"<tr>{''.join(f'<{tag}>{escape(cell)}</{tag}>' for cell in cells)}</tr>"
