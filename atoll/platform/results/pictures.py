"""``atoll plot``: which figure is drawn of what."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from atoll.attacks.arena.arena_summary import Cell, cells_of
from atoll.attacks.metrics.kinds import MAIN
from atoll.errors import InvalidExperimentError, RunDirectoryError
from atoll.platform.callbacks.metric_names import SERVER_ACCURACY, main_metric
from atoll.platform.reports.arena_table import table_of_cells
from atoll.platform.reports.tables import Table
from atoll.platform.results.comparison import check_same_data
from atoll.platform.results.groups import (
    Band,
    Group,
    by_data,
    check_metric,
    grouped,
    metrics_in,
)
from atoll.platform.results.plots import (
    PARTITION,
    Look,
    Panel,
    check_picture,
    counts_panel,
    curve_panels,
    draw_arena,
    draw_panels,
)
from atoll.platform.results.recorded import (
    RESULTS_OF_AN_ARENA,
    Recorded,
    kind_of,
    read_recorded,
)
from atoll.platform.run_directory.run_files import read_partition, read_table


def plot(
    directories: Sequence[Path],
    out: Path,
    metrics: Sequence[str] = (),
    *,
    band: Band = "range",
    held_out: str | None = None,
    look: Look | None = None,
    anyway: bool = False,
) -> None:
    """Draw a figure of runs, sweeps, or an arena.

    Parameters
    ----------
    directories : Sequence[Path]
        Run and sweep directories, or one arena directory.
    out : Path
        The picture: .pdf, .svg or .png.
    metrics : Sequence[str]
        A panel each: columns of ``rounds.parquet``, or "partition" of a run; of an arena one of
        its metrics. By default the main one, and PSNR.
    band : "interval", "range" or "none"
        What is drawn around the mean over seeds.
    held_out : str, optional
        Of a sweep that holds out several sets of domains in turn, one ("a+b"); by default all
        are drawn, a panel each. They are never pooled.
    look : Look, optional
        How it looks.
    anyway : bool
        Whether runs on different data may be in one panel.

    Raises
    ------
    AtollError
        If something cannot be read or drawn.
    """
    check_picture(out)
    look = look or Look()
    kinds = [kind_of(directory) for directory in directories]
    if "arena" in kinds:
        if len(directories) > 1 or len(metrics) > 1:
            raise InvalidExperimentError(
                f"{directories[kinds.index('arena')]}: is an arena; expected it alone, with one "
                "--metric"
            )
        cells = arena_cells(directories[0])
        metric = metrics[0] if metrics else cells[0].main_metric if cells else MAIN["images"]
        draw_arena(cells, metric, out, look)
        return
    panels: list[Panel] = []
    runs = read_recorded(directories)
    for metric in metrics or (main_metric(metrics_in(runs)) or SERVER_ACCURACY,):
        if metric == PARTITION:
            panels.append(_partition(runs))
            continue
        check_metric(runs, metric)
        groups = _groups(directories, runs, held_out, anyway=anyway)
        panels += curve_panels(groups, metric, band, look.from_round)
    draw_panels(panels, out, look)


def arena_cells(directory: Path) -> list[Cell]:
    """Return the cells of an arena's table.

    Raises
    ------
    RunDirectoryError
        If it has none yet, or it cannot be read.
    """
    path = directory / RESULTS_OF_AN_ARENA
    if not path.exists():
        raise RunDirectoryError(f"{path}: is missing; expected an arena that has ended")
    return cells_of(read_table(path).to_pylist())


def arena_tables(directory: Path) -> list[Table]:
    """Return an arena's table: attacks on defenses, with bootstrap intervals over victims."""
    return [table_of_cells(arena_cells(directory))]


def band_of(name: str) -> Band:
    """Return a band by its name."""
    bands: dict[str, Band] = {"range": "range", "interval": "interval", "none": "none"}
    return bands[name]


def _groups(
    directories: Sequence[Path], runs: Sequence[Recorded], held_out: str | None, *, anyway: bool
) -> dict[str, Sequence[Group]]:
    """Return groups by the domains that were held out: what is pooled was trained on the same."""
    groups = grouped(runs)
    if held_out is not None:
        there = {"+".join(group.data.held_out) for group in groups}
        groups = [group for group in groups if "+".join(group.data.held_out) == held_out]
        if not groups:
            raise InvalidExperimentError(
                f"--held-out {held_out}: no run holds that out; expected one of "
                f"{', '.join(sorted(there))}"
            )
    if len(directories) > 1 or kind_of(directories[0]) == "run":
        check_same_data([run for group in groups for run in group.runs], anyway=anyway)
        return {"": groups}
    return {str(key): own for key, own in by_data(groups).items()}


def _partition(runs: Sequence[Recorded]) -> Panel:
    if len(runs) > 1:
        raise InvalidExperimentError(
            f"--metric {PARTITION}: there are {len(runs)} runs; expected one"
        )
    found = read_partition(runs[0].directory)
    if found is None or not found["histogram"]:
        raise RunDirectoryError(f"{runs[0].directory}: has no partition.json with clients' classes")
    return counts_panel(found)
