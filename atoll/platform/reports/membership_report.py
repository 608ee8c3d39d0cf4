"""The page of ``atoll membership``: ROC curves on logarithmic axes, and tables by client."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from atoll.attacks.membership.operating_points import roc, steps
from atoll.files.atomic import write_text
from atoll.platform.reports.figures.drawing import Curve, Curves
from atoll.platform.reports.page import render
from atoll.platform.reports.tables import Table

PAGE = "membership.html"
# Candidates that are listed: those with the highest scores.
LISTED = 40
DEFINITIONS = (
    ("TPR", "share of the members that are found", "the higher, the more is revealed"),
    ("FPR", "share of the others that are taken for members", "what a threshold is chosen by"),
    (
        "least FPR",
        "one over the number of the others",
        "below it a rate means: none of them; the TPR is then that above all others",
    ),
    ("AUROC", "probability that a member's score is above another's", "0.5 is chance"),
    ("in brackets", "95 % intervals: Clopper and Pearson's, of AUROC Hanley and McNeil's", ""),
)


def write_membership_report(
    directory: Path,
    rows: Sequence[Mapping[str, Any]],
    methods: Mapping[str, str],
    tables: Sequence[Table],
    *,
    run: str,
) -> Path:
    """Write ``membership.html``.

    Parameters
    ----------
    directory : Path
        The attack's directory.
    rows : Sequence[Mapping]
        One a candidate: node_id, member, index, and a score a method.
    methods : Mapping[str, str]
        Each method's threat model.
    tables : Sequence[Table]
        The figures of all candidates, and of each client.
    run : str
        Name of the run.

    Returns
    -------
    Path
        The page.
    """
    overall, by_client = tables
    page = render(
        "membership.html.jinja",
        kind="Atoll membership inference",
        figures=[("ROC, both axes logarithmic", roc_figure(rows, list(methods)))],
        title=f"Membership in {run}",
        overall=overall,
        by_client=by_client,
        note=(
            "All candidates at one threshold. A rate of 0 is drawn at half of the least that can "
            "be measured; the dotted line is chance."
        ),
        threats=list(methods.items()),
        listed=_listed(rows, list(methods)),
        definitions=DEFINITIONS,
    )
    write_text(directory / PAGE, page)
    return directory / PAGE


def roc_figure(rows: Sequence[Mapping[str, Any]], methods: Sequence[str]) -> Curves:
    """Return the figure of each method's ROC curve on logarithmic axes.

    Parameters
    ----------
    rows : Sequence[Mapping]
        As of :func:`write_membership_report`.
    methods : Sequence[str]
        Which scores.
    """
    count = sum(bool(row["member"]) for row in rows)
    least_false, least_true = 0.5 / (len(rows) - count), 0.5 / count
    curves = []
    for place, method in enumerate(methods):
        members = [row[method] for row in rows if row["member"]]
        others = [row[method] for row in rows if not row["member"]]
        false, true = steps(*roc(members, others))
        x = [math.log10(max(rate, least_false)) for rate in false.tolist()]
        y = [math.log10(max(rate, least_true)) for rate in true.tolist()]
        curves.append(Curve(method, x, y, color=place, named=True))
    least = max(least_false, least_true)
    ends = [math.log10(least), 0.0]
    curves.append(Curve("chance", ends, ends, dash="dot", color=-1, width=1.0))
    return Curves(
        curves,
        "true-positive rate",
        "false-positive rate",
        height=380,
        whole=True,
        powers=True,
    )


def _listed(rows: Sequence[Mapping[str, Any]], methods: Sequence[str]) -> dict[str, Any]:
    """Return the candidates with the highest scores of the last method, as a table."""
    method = methods[-1]
    first = sorted(rows, key=lambda row: -row[method])[:LISTED]
    cells = [
        [
            row["node_id"],
            f"{'training' if row['member'] else 'test'} {row['index']}",
            "member" if row["member"] else "other",
            *(f"{row[name]:.4g}" for name in methods),
        ]
        for row in first
    ]
    header = ["node", "example", "is", *methods]
    return {"header": header, "rows": cells, "method": method, "left_out": len(rows) - len(first)}
