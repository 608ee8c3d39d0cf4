"""Figures of a round that a person is shown, the same on terminals, in pipes and in notebooks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from atoll.clients.tasks.directions import DIRECTIONS
from atoll.platform.callbacks.metric_names import (
    ATTACK_SUCCESS,
    LOSS,
    MAIN,
    SHORT_LABELS,
    column_of,
    group_of,
    label_of,
    main_metric,
)
from atoll.platform.callbacks.observers import RoundRecord

# More than these are not read at once.
MOST_FIGURES = 16
# A group's short label ("server") and a metric of it ("accuracy").
Column = tuple[str, str]
COLUMNS: tuple[Column, ...] = tuple(
    (label, name) for label in SHORT_LABELS.values() for name in (*MAIN, ATTACK_SUCCESS)
)


def figures_of(record: RoundRecord) -> dict[Column, str]:
    """Return each group's main metric and its loss, in the order in which they are shown.

    With poisoned clients their success is beside them.
    """
    figures: dict[Column, str] = {}
    for group, label in SHORT_LABELS.items():
        has_main = False
        for name in MAIN:
            if has_main and name != LOSS:
                continue
            value = next((v for k, v in record.groups[group].items() if k.endswith(name)), None)
            if isinstance(value, int | float):
                figures[label, name] = f"{value:.4f}"
                has_main = True
        success = record.groups[group].get(ATTACK_SUCCESS)
        if isinstance(success, int | float):
            figures[label, ATTACK_SUCCESS] = f"{success:.4f}"
    return figures


def final_figures(metrics: Mapping[str, Any]) -> dict[str, str]:
    """Return a run's numbers by their names in words.

    Of many, those by domain are left out that are not of the main metric.
    """
    numbers = {name: value for name, value in metrics.items() if isinstance(value, int | float)}
    if len(numbers) > MOST_FIGURES:
        main = main_metric(numbers)
        numbers = {n: v for n, v in numbers.items() if n == main or _measure(n) in (None, main)}
    return {label_of(name): f"{value:.4f}" for name, value in numbers.items()}


def _measure(column: str) -> str | None:
    """Return the metric of a column that is of one domain; None of one that is of all."""
    group, name = group_of(column)
    if name in DIRECTIONS:
        return None
    found = [metric for metric in DIRECTIONS if name.startswith(f"{metric}_")]
    return column_of(group, max(found, key=len)) if found else None


class RoundColumns:
    """The columns of a table that grows by a row a round: those of all rounds so far."""

    def __init__(self) -> None:
        self.shown: list[Column] = []

    def widen(self, record: RoundRecord) -> bool:
        """Add the columns that a round brings; return whether there are any."""
        figures = figures_of(record)
        wider = [column for column in COLUMNS if column in self.shown or column in figures]
        has_changed = wider != self.shown
        self.shown = wider
        return has_changed

    def cells(self, record: RoundRecord) -> list[str]:
        """Return a round's figures by column; empty where it has none."""
        figures = figures_of(record)
        return [figures.get(column, "") for column in self.shown]


def line_of(record: RoundRecord, members: str) -> str:
    """Return a round as one line that needs no headings.

    Parameters
    ----------
    record : RoundRecord
        The round.
    members : str
        What takes part: "clients" or "layers".
    """
    figures = [f"{label} {name} {text}" for (label, name), text in figures_of(record).items()]
    took_part = f"{record.replies}/{record.cohort} {members}{failures(record)}"
    number = f"round {record.server_round}/{record.num_rounds}"
    return "  ".join([number, *figures, took_part, f"{record.seconds:.2f} s"])


def failures(record: RoundRecord) -> str:
    """Return how many clients failed, to be added to how many replied; empty if none did."""
    return f", {record.errors} failed" if record.errors else ""
