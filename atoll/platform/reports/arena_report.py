"""The report of an arena: a folder whose page opens without a network.

Pictures of clients' images, and of what attacks made of them, are in it only where the arena was
asked to keep them.
"""

from __future__ import annotations

import math
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from atoll.attacks.arena.arena_summary import Cell, Pair, cells_of, pairs_of
from atoll.attacks.arena.paired_tests import Interval
from atoll.attacks.metrics.kinds import DIGITS, MAIN, METRICS, NOUNS, TITLES, kind_of
from atoll.attacks.metrics.picture import save_picture
from atoll.files.atomic import write_text
from atoll.platform.reports.arena_figures import attacker_of, frontier, heat_map
from atoll.platform.reports.drawing import Figure
from atoll.platform.reports.page import render

REPORT, PAGE, PICTURES = "report", "index.html", "pictures"

# What the tables show of each metric: shares of victims' examples in percent, others as they are.
IN_PERCENT = ("identified", "label_accuracy")

Images = Mapping[str, "tuple[Tensor, Tensor] | None"]


def write_arena_report(
    directory: Path, rows: Sequence[dict[str, Any]], baseline: str, images: Images
) -> Path:
    """Write ``report/index.html`` of an arena.

    Parameters
    ----------
    directory : Path
        The arena directory.
    rows : Sequence[dict]
        Its table.
    baseline : str
        The attack that others are compared with.
    images : Mapping[str, (Tensor, Tensor)]
        True images and reconstructions by the jobs' keys; empty where none may be shown.

    Returns
    -------
    Path
        The page.
    """
    cells = cells_of(rows)
    kind = kind_of(rows[0]) if rows else "images"
    measured = [name for name in METRICS if any(name in cell.metrics for cell in cells)]
    page = render(
        "arena.html.jinja",
        kind="Atoll arena",
        figures=_figures(cells, kind),
        noun=NOUNS[kind],
        main=TITLES[MAIN[kind]],
        measured=[TITLES[name] for name in measured],
        title=directory.resolve().name,
        victims=len(
            {(r["setting"], r["defense"], r["seed"], r["round"], r["node_id"]) for r in rows}
        ),
        images=len({(r["key"], r["image"]) for r in rows}),
        cells=[_cell_row(cell, measured) for cell in cells],
        pairs=[list(_pair_row(pair).values()) for pair in pairs_of(rows, baseline)],
        pictures=_draw_pictures(directory / REPORT / PICTURES, rows, images),
    )
    write_text(directory / REPORT / PAGE, page)
    return directory / REPORT / PAGE


def _figures(cells: Sequence[Cell], kind: str) -> list[tuple[str, Figure]]:
    main = MAIN[kind]
    leakage = {main: TITLES[main], "identified": f"share of {NOUNS[kind]} identified"}
    figures: list[tuple[str, Figure]] = []
    for setting in dict.fromkeys(cell.setting for cell in cells):
        own = [cell for cell in cells if cell.setting == setting]
        for metric, title in leakage.items():
            frontier_figure = frontier(own, metric, title)
            if frontier_figure is not None:
                figures.append(
                    (
                        f"Accuracy against {title} by the strongest attack, {setting}",
                        frontier_figure,
                    )
                )
        for server_round in dict.fromkeys(cell.server_round for cell in own):
            of_round = [cell for cell in own if cell.server_round == server_round]
            title = f"Mean {TITLES[main]} by attack and defense, {setting}, round {server_round}"
            figures.append((title, heat_map(of_round, main)))
    return figures


def _cell_row(cell: Cell, measured: Sequence[str]) -> list[str]:
    return [
        cell.setting,
        str(cell.server_round),
        attacker_of(cell),
        cell.defense,
        *(_shown(cell.metrics.get(name), name) for name in measured),
        cell.label_source,
        cell.threat,
        str(cell.metrics[cell.main_metric].count),
        str(cell.images),
        "-" if cell.accuracy is None else f"{cell.accuracy.mean:.4f}",
    ]


def _shown(interval: Interval | None, metric: str) -> str:
    if interval is None:
        return "-"
    if metric in IN_PERCENT:
        return f"{100 * interval.mean:.0f} %"
    return _with_interval(interval, DIGITS[metric])


def _pair_row(pair: Pair) -> dict[str, str]:
    p_value = pair.comparison.p_value
    return {
        "setting": pair.setting,
        "round": str(pair.server_round),
        "defense": pair.defense,
        "pair": f"{pair.first} - {pair.second}",
        "difference": _with_interval(pair.comparison.difference, 2),
        "victims": str(pair.comparison.difference.count),
        "p_value": "-" if math.isnan(p_value) else f"{p_value:.3g}",
    }


def _with_interval(interval: Interval, digits: int) -> str:
    if math.isnan(interval.low):
        return f"{interval.mean:.{digits}f}"
    return f"{interval.mean:.{digits}f} [{interval.low:.{digits}f}, {interval.high:.{digits}f}]"


def _draw_pictures(
    directory: Path, rows: Sequence[dict[str, Any]], images: Images
) -> list[dict[str, str]]:
    """Draw a grid a cell, the best and the worst reconstructions under their truths.

    What an earlier report showed is removed.
    """
    shutil.rmtree(directory, ignore_errors=True)
    grouped: dict[tuple[str, ...], list[str]] = {}
    for row in rows:
        name = (row["setting"], f"round {row['round']}", row["defense"], row["attack_label"])
        keys = grouped.setdefault((*name, row["knowledge"]), [])
        if row["key"] not in keys and images.get(row["key"]) is not None:
            keys.append(row["key"])
    scores = {(row["key"], row["image"]): row["psnr"] for row in rows if "psnr" in row}
    pictures = []
    for place, (names, keys) in enumerate(grouped.items()):
        found = [both for key in keys if (both := images[key]) is not None]
        if not found:
            continue
        directory.mkdir(parents=True, exist_ok=True)
        path = directory / f"{place:04d}.png"
        save_picture(
            path,
            torch.cat([truth for truth, _ in found]),
            torch.cat([reconstructed for _, reconstructed in found]),
            [
                scores[key, image]
                for key, (truth, _) in zip(keys, found, strict=True)
                for image in range(len(truth))
            ],
        )
        pictures.append({"file": f"{PICTURES}/{path.name}", "title": ", ".join(names)})
    return pictures
