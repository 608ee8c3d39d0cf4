"""Progress of an arena in the terminal: a line for each federation, and one for each attack."""

from __future__ import annotations

from rich.console import Console

from atoll.attacks.arena.arena_run import JobEnd
from atoll.attacks.metrics.kinds import DIGITS, MAIN, TITLES, kind_of
from atoll.platform.callbacks.metric_names import SERVER_ACCURACY
from atoll.platform.sweeps.sweep import TrialEnd


class ArenaProgress:
    """Prints lines.

    Parameters
    ----------
    console : Console
        Where to.
    """

    def __init__(self, console: Console) -> None:
        self._console = console

    def on_federation(self, end: TrialEnd) -> None:
        """Print the result of a federation."""
        accuracy = end.metrics.get(SERVER_ACCURACY)
        figure = "finished" if accuracy is None else f"accuracy {accuracy:.4f}"
        outcome = figure if end.error is None else f"failed: {end.error}"
        self._print(f"federation {end.done}/{end.of}: {end.trial}: {outcome}, {end.seconds:.1f} s")

    def on_job(self, end: JobEnd) -> None:
        """Print the result of an attack."""
        labels = end.job.labels
        whose = f"{labels['attack_label']} ({end.job.knowledge}) on {labels['defense']}"
        if end.result is None:
            outcome = f"failed: {end.error}"
        else:
            rows = end.result.rows
            main = MAIN[kind_of(rows[0])]
            mean = sum(row[main] for row in rows) / len(rows)
            outcome = f"{TITLES[main]} {mean:.{DIGITS[main]}f}, {end.result.seconds:.1f} s"
        self._print(f"attack {end.done}/{end.of}: {whose}, seed {labels['seed']}: {outcome}")

    def _print(self, line: str) -> None:
        self._console.print(line, soft_wrap=True, markup=False)
