"""``atoll labels``: how often labels occur at clients, from what an alignment strategy asked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.table import Table
from torch import Tensor

from atoll.attacks.captures.capture import Capture, faults_of
from atoll.attacks.captures.capture_files import find_captures, read_capture, read_truth
from atoll.attacks.threat.capabilities import Capability, ThreatModel
from atoll.attacks.threat.label_leakage import (
    LeakedLabels,
    asks_for_labels,
    leaked_labels,
    share_recovered,
)
from atoll.attacks.victims import references_of
from atoll.errors import CaptureError
from atoll.platform.attack_runs.attack_rows import write_rows
from atoll.platform.attack_runs.attack_run import ATTACKS_FOLDER, dataset_of, uses_of
from atoll.platform.reports import tables as reports
from atoll.platform.run_directory.run_files import check_run_directory
from atoll.platform.runs.session import new_run_directory
from atoll.user_code.trust import Ask, admitted, refuse

MESSAGES, ROWS = "query.moments", "labels.parquet"


@dataclass(frozen=True)
class LabelsRun:
    """Label counts that a run's captured queries reveal.

    Attributes
    ----------
    directory : Path
        Has ``labels.parquet``.
    threat : ThreatModel
        What was used.
    rows : list[dict]
        One a captured answer: round, node_id, domains, statistics, examples, counts (by class),
        at_least (by class; None without a Hessian's diagonal), recovered (the share of the labels
        that the counts get right, as multisets) and certain (the share that surely occurs).
    """

    directory: Path
    threat: ThreatModel
    rows: list[dict[str, Any]]

    def plain_table(self) -> reports.Table:
        """Return the rows for LaTeX and CSV."""
        return reports.Table(
            f"labels of {len(self.rows)} answers",
            ["round", "node", "statistics", "examples", "recovered", "certain", "counts"],
            [
                [
                    *(row["round"], row["node_id"], ", ".join(row["statistics"])),
                    *(row["examples"], row["recovered"], row["certain"]),
                    " ".join(map(str, row["counts"])),
                ]
                for row in self.rows
            ],
            str(self.threat),
        )

    def table(self) -> Table:
        """Return the rows for a terminal."""
        table = Table(
            title=f"labels of {len(self.rows)} answers",
            caption=str(self.threat),
            title_justify="left",
            caption_justify="left",
        )
        for column in ("round", "node", "statistics", "examples", "recovered", "certain", "counts"):
            table.add_column(
                column, justify="left" if column in ("statistics", "counts") else "right"
            )
        for row in self.rows:
            table.add_row(
                str(row["round"]),
                str(row["node_id"]),
                ", ".join(row["statistics"]),
                str(row["examples"]),
                _percent(row["recovered"]),
                _percent(row["certain"]),
                " ".join(map(str, row["counts"])),
            )
        recovered = sum(row["recovered"] for row in self.rows) / len(self.rows)
        table.add_section()
        table.add_row(
            "all", "", "", str(sum(r["examples"] for r in self.rows)), _percent(recovered)
        )
        return table


def run_labels(
    run_directory: Path, *, public: bool = False, out: Path | None = None, ask: Ask = refuse
) -> LabelsRun:
    """Count labels from all captured queries of a run that give them away.

    Parameters
    ----------
    run_directory : Path
        A run of an experiment with ``[capture]`` and an alignment strategy.
    public : bool
        Whether the attacker has public images of the kind: every other test image.
    out : Path, optional
        By default the first free ``RUN_DIR/attacks/labels[-n]``.
    ask : callable
        Whether code that the run names may be imported (:mod:`atoll.user_code.trust`).

    Raises
    ------
    AtollError
        If nothing was captured that holds head gradients, or the head does not give counts.

    Examples
    --------
    >>> from pathlib import Path
    >>> from atoll import run_labels
    >>> labels = run_labels(Path("runs/alignment-leakage"))  # doctest: +SKIP
    >>> [row["recovered"] for row in labels.rows]  # doctest: +SKIP
    """
    check_run_directory(run_directory)
    captures = [read_capture(path) for path in find_captures(run_directory, MESSAGES)]
    asked = [capture for capture in captures if _gives_labels(capture)]
    if not asked:
        raise CaptureError(
            f"{run_directory}: no captured query asks for head gradients; expected a strategy that "
            "aligns them (HGP, Hutchinson, Fishr, ...)"
        )
    with admitted(uses_of(run_directory, asked), run_directory, ask):
        images = references_of(dataset_of(run_directory)).public.images if public else None
        rows = [_row(capture, images) for capture in asked]
    directory = new_run_directory(out, run_directory / ATTACKS_FOLDER, "labels")
    write_rows(directory / ROWS, rows)
    threat = ThreatModel.of(*([Capability.PUBLIC_DATA] if public else []))
    return LabelsRun(directory, threat, rows)


def _gives_labels(capture: Capture) -> bool:
    with faults_of(capture):
        return bool(asks_for_labels(capture))


def _row(capture: Capture, public: Tensor | None) -> dict[str, Any]:
    assert capture.directory is not None
    truth = read_truth(capture.directory).labels
    with faults_of(capture):
        return _figures(capture, leaked_labels(capture, public), truth)


def _figures(capture: Capture, found: Sequence[LeakedLabels], truth: Tensor) -> dict[str, Any]:
    counts = _total([leaked.counts for leaked in found])
    at_least = _certain(found)
    return {
        "round": capture.server_round,
        "node_id": capture.node_id,
        "domains": [leaked.domain for leaked in found],
        "statistics": asks_for_labels(capture),
        "examples": len(truth),
        "counts": counts.tolist(),
        "at_least": None if at_least is None else at_least.tolist(),
        "recovered": share_recovered(counts, truth),
        "certain": None if at_least is None else share_recovered(at_least, truth),
    }


def _certain(found: Sequence[LeakedLabels]) -> Tensor | None:
    known = [leaked.at_least for leaked in found if leaked.at_least is not None]
    return _total(known) if known else None


def _total(counts: Sequence[Tensor]) -> Tensor:
    total = counts[0]
    for more in counts[1:]:
        total = total + more
    return total


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:.1f} %"
