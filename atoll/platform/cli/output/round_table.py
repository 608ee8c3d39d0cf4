"""A table in the terminal that grows by a line a round."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby

from atoll.platform.callbacks.metric_names import ATTACK_SUCCESS, LOSS, MAIN
from atoll.platform.callbacks.observers import RoundRecord
from atoll.platform.callbacks.round_figures import Column, RoundColumns, failures

# All six columns of figures of a thousand rounds fit in 80 characters.
WIDTHS = {name: 6 if name == LOSS else max(8, len(name)) for name in (*MAIN, ATTACK_SUCCESS)}
TRAINED, SECONDS = "trained", "time/s"
GAP = "  "


class RoundTable:
    """Lines of the table: a round each, and headings where the columns change.

    Parameters
    ----------
    num_rounds : int
        The last round.
    """

    def __init__(self, num_rounds: int) -> None:
        self._columns = RoundColumns()
        self._number = max(len("round"), 2 * len(str(num_rounds)) + 1)
        self._trained = 0

    def headings(self, record: RoundRecord) -> list[str]:
        """Return the two lines above a round; none if it has the columns of the last one."""
        trained = max(self._trained, len(TRAINED), len(f"{record.cohort}/{record.cohort}"))
        is_wider = self._columns.widen(record) or trained > self._trained
        self._trained = trained
        if not is_wider:
            return []
        groups = GAP.join([" " * self._number, *_group_labels(self._columns.shown)])
        names = [name for _, name in self._columns.shown]
        return [groups.rstrip(), self._line("round", names, TRAINED, SECONDS)]

    def row(self, record: RoundRecord) -> str:
        """Return a round's line."""
        number = f"{record.server_round}/{record.num_rounds}"
        trained = f"{record.replies}/{record.cohort}"
        seconds = f"{record.seconds:.2f}"
        return self._line(number, self._columns.cells(record), trained, seconds) + failures(record)

    def _line(self, number: str, figures: Sequence[str], trained: str, seconds: str) -> str:
        columns = zip(self._columns.shown, figures, strict=True)
        cells = [f"{text:>{WIDTHS[name]}}" for (_, name), text in columns]
        ends = [f"{trained:>{self._trained}}", f"{seconds:>{len(SECONDS)}}"]
        return GAP.join([f"{number:>{self._number}}", *cells, *ends])


def _group_labels(columns: Sequence[Column]) -> Iterator[str]:
    """Yield each group's label over its columns."""
    for label, members in groupby(columns, key=lambda column: column[0]):
        width = len(GAP.join(" " * WIDTHS[name] for _, name in members))
        yield f"{label:^{width}}"
