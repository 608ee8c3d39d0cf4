"""Trials of a sweep, or an arena's federations and attacks, as a terminal shows them."""

from __future__ import annotations

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from atoll.platform.cli.live_page.views import Part, View
from atoll.platform.cli.watching.run_standing import plain
from atoll.platform.sweeps.trial_rows import WAITING


class StandingWatch:
    """Shows what a directory consists of: a live table on a terminal, elsewhere each change.

    Parameters
    ----------
    view : View
        The directory.
    console : Console
        Where to.
    """

    def __init__(self, view: View, console: Console) -> None:
        self._view = view
        self._console = console
        self._live: Live | None = None
        self._said: dict[int, str] = {}
        self._summary = ""

    def __enter__(self) -> StandingWatch:
        if self._console.is_terminal:
            self._live = Live(console=self._console, auto_refresh=False)
            self._live.start()
        return self

    def __exit__(self, *exception: object) -> None:
        if self._live is not None:
            self._live.stop()

    def look(self) -> bool:
        """Show what is new; return whether all has ended."""
        standing = self._view.standing()
        summary = f"{standing.text} -> {self._view.directory}"
        if self._live is None:
            self._say(standing.parts, summary)
        else:
            table = Table(box=None, pad_edge=False)
            for column in ("name", "state", "figures"):
                table.add_column(column)
            for part in standing.parts:
                table.add_row(*(Text(plain(t)) for t in (part.name, part.state, part.figures)))
            self._live.update(Group(Text(summary), table), refresh=True)
        return standing.has_ended

    def _say(self, parts: tuple[Part, ...], summary: str) -> None:
        changed = summary != self._summary
        for place, part in enumerate(parts):
            if self._said.get(place) != part.state and part.state != WAITING:
                line = f"{part.name}: {part.state}{f', {part.figures}' if part.figures else ''}"
                self._console.print(plain(line), soft_wrap=True, markup=False)
                changed = True
            self._said[place] = part.state
        if changed:
            self._console.print(summary, soft_wrap=True, markup=False)
        self._summary = summary
