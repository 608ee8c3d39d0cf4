"""Comparison of runs: what differs in configuration, and final metrics over the seeds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from atoll.errors import InvalidExperimentError
from atoll.platform.callbacks.metric_names import SERVER, column_of, main_metric
from atoll.platform.reports.tables import Cell, Table
from atoll.platform.results.groups import (
    Group,
    by_data,
    check_metric,
    final_estimate,
    grouped,
    metrics_in,
)
from atoll.platform.results.labels import differing, value_of
from atoll.platform.results.recorded import DataKey, Recorded, kind_of, read_recorded

# With more than so many groups they are the rows of the table of differences.
MOST_COLUMNS = 6
ANYWAY = "--anyway compares them all the same"


@dataclass(frozen=True)
class Section:
    """Groups whose figures may stand beside each other.

    Attributes
    ----------
    title : str
        What they are of.
    groups : tuple[Group, ...]
        The groups.
    differences, metrics : Table
        What differs in configuration; the final metrics.
    """

    title: str
    groups: tuple[Group, ...]
    differences: Table
    metrics: Table


@dataclass(frozen=True)
class Comparison:
    """Runs beside each other.

    Attributes
    ----------
    title : str
        Whose they are.
    sections : tuple[Section, ...]
        One, or one for each set of held-out domains of a sweep.
    metrics : tuple[str, ...]
        What is compared.
    warnings : tuple[str, ...]
        What to know before reading it.
    """

    title: str
    sections: tuple[Section, ...]
    metrics: tuple[str, ...]
    warnings: tuple[str, ...]

    @property
    def tables(self) -> list[Table]:
        """All tables, section by section."""
        both = [(section.differences, section.metrics) for section in self.sections]
        return [table for pair in both for table in pair if table.rows]


def compare(
    directories: Sequence[Path], metrics: Sequence[str] = (), *, anyway: bool = False
) -> Comparison:
    """Compare runs, or the trials of a sweep.

    Parameters
    ----------
    directories : Sequence[Path]
        Run directories, or sweep directories.
    metrics : Sequence[str]
        Columns of ``rounds.parquet``; by default the main one and the server's loss.
    anyway : bool
        Whether to compare runs whose figures are of different data.

    Raises
    ------
    RunDirectoryError
        If one cannot be read.
    InvalidExperimentError
        If figures are of different data, or there is no such metric.
    """
    runs = read_recorded(directories)
    chosen = _metrics(runs, metrics)
    groups = grouped(runs)
    found = by_data(groups)
    warnings = [
        f"{run.directory} has not ended: its figures are of round {len(run.rounds)}"
        for run in runs
        if not run.is_finished
    ]
    is_one_sweep = len(directories) == 1 and kind_of(directories[0]) == "sweep"
    problem = None if is_one_sweep else check_same_data(runs, anyway=anyway)
    if problem is not None:
        warnings.insert(0, problem)
        sections = [_section("all runs, on different data", groups, chosen)]
    else:
        sections = [_section(str(key), own, chosen) for key, own in found.items()]
    title = ", ".join(directory.resolve().name for directory in directories)
    return Comparison(title, tuple(sections), tuple(chosen), tuple(warnings))


def _metrics(runs: Sequence[Recorded], asked: Sequence[str]) -> list[str]:
    for metric in asked:
        check_metric(runs, metric)
    if asked:
        return list(dict.fromkeys(asked))
    known = metrics_in(runs)
    main = main_metric(known)
    loss = [name for name in known if name == column_of(SERVER, "loss")]
    chosen = list(dict.fromkeys([*([main] if main else []), *loss]))
    return chosen or [name for name in known if name.endswith(("accuracy", "loss"))][:2]


def check_same_data(runs: Sequence[Recorded], *, anyway: bool = False) -> str | None:
    """Refuse runs whose figures are of different data.

    Parameters
    ----------
    runs : Sequence[Recorded]
        The runs.
    anyway : bool
        Whether what differs is only returned.

    Raises
    ------
    InvalidExperimentError
        With two of the runs, and what differs between them.
    """
    other = next((run for run in runs if run.data != runs[0].data), None)
    if other is None:
        return None
    problem = _different_data(runs[0], other)
    if not anyway:
        raise InvalidExperimentError(f"{problem}; expected runs on the same data ({ANYWAY})")
    return problem


def _different_data(first: Recorded, other: Recorded) -> str:
    return (
        f"{first.directory} and {other.directory}: figures are of different data, "
        f"{_told(first.data, other.data)}"
    )


def _told(one: DataKey, other: DataKey) -> str:
    """Return in which key of ``[data]`` two differ."""
    pairs = {
        "data.dataset": (one.dataset, other.dataset),
        "data.held_out": (list(one.held_out), list(other.held_out)),
        "data.test_examples": (one.test_examples, other.test_examples),
        "the data's SHA-256 or options": (one.contents, other.contents),
    }
    key, (here, there) = next((k, both) for k, both in pairs.items() if both[0] != both[1])
    return f"{key} = {here!r} and {there!r}"


def _section(title: str, groups: Sequence[Group], metrics: Sequence[str]) -> Section:
    return Section(
        title, tuple(groups), _differences(title, groups), _final(title, groups, metrics)
    )


def _differences(title: str, groups: Sequence[Group]) -> Table:
    configs = [{**group.config, **group.runs[0].versions} for group in groups]
    keys = differing(configs)
    title = f"configuration, {title}"
    if len(groups) <= MOST_COLUMNS:
        rows: list[list[Cell]] = [[key, *(value_of(c, key) for c in configs)] for key in keys]
        return Table(title, ["key", *(group.label for group in groups)], rows, "what differs")
    rows = [
        [group.label, *(value_of(config, key) for key in keys)]
        for group, config in zip(groups, configs, strict=True)
    ]
    return Table(title, ["", *keys], rows if keys else [], "what differs")


def _final(title: str, groups: Sequence[Group], metrics: Sequence[str]) -> Table:
    rows: list[list[Cell]] = []
    for group in groups:
        rounds = sorted({len(run.rounds) for run in group.runs})
        shown = str(rounds[0]) if len(rounds) == 1 else f"{rounds[0]} to {rounds[-1]}"
        rows.append([group.label, shown, *(final_estimate(group, m) for m in metrics)])
    note = "last value, mean ± Student's 95 % interval over seeds"
    return Table(f"metrics, {title}", ["run", "rounds", *metrics], rows, note)
