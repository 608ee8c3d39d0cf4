"""The report of an arena: a folder whose page opens without a network.

Pictures of clients' images, and of what attacks made of them, are in it only where the arena was
asked to keep them.
"""

from __future__ import annotations

import math
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tomli_w
import torch
from torch import Tensor

from atoll.attacks.arena.arena_summary import Cell, Pair, cells_of, pairs_of
from atoll.attacks.arena.paired_tests import Interval
from atoll.attacks.metrics.kinds import MAIN, NOUNS, TITLES, kind_of
from atoll.attacks.metrics.picture import save_picture
from atoll.credentials import tables_without_credentials
from atoll.files.atomic import write_text
from atoll.platform.reports.arena.conclusion import (
    BELOW,
    disagreements,
    findings,
    is_below_floor,
    sentences,
    share_interval,
    summary_rows,
    warnings,
)
from atoll.platform.reports.arena.definitions import READING, definitions_of
from atoll.platform.reports.arena.facts import ArenaFacts, assumptions, threats_of
from atoll.platform.reports.figures.arena_figures import attacker_of, frontier, heat_map
from atoll.platform.reports.figures.drawing import Figure
from atoll.platform.reports.page import render

REPORT, PAGE, PICTURES = "report", "index.html", "pictures"
# Pictures: so many images beside each other, of so many pixels.
COLUMNS, CELL = 6, 128

Images = Mapping[str, "tuple[Tensor, Tensor] | None"]


def write_arena_report(
    directory: Path,
    rows: Sequence[dict[str, Any]],
    baseline: str,
    images: Images,
    facts: ArenaFacts | None = None,
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
    facts : ArenaFacts, optional
        What is known beside the rows: settings, privacy spent, classes, versions, failures.

    Returns
    -------
    Path
        The page.
    """
    facts = facts or ArenaFacts()
    cells = cells_of(rows)
    found = findings(cells, rows, facts)
    kind = kind_of(rows[0]) if rows else "images"
    updates = {(r["setting"], r["defense"], r["seed"], r["round"], r["node_id"]) for r in rows}
    candidates = facts.settings.get("candidates", "many")
    chance = candidates + 1 if isinstance(candidates, int) else "as many"
    page = render(
        "arena.html.jinja",
        kind="Atoll arena",
        figures=_figures(cells, kind),
        noun=NOUNS[kind],
        main=TITLES[MAIN[kind]],
        title=directory.resolve().name,
        updates=len(updates),
        images=len({(r["key"], r["image"]) for r in rows}),
        conclusion=sentences(found, facts),
        summary=summary_rows(found, facts),
        warnings=list(warnings(cells, found, facts)),
        disagreements=disagreements(cells, MAIN[kind]),
        reading=READING[kind],
        definitions=[
            (name, text.format(candidates=candidates, chance=chance), meaning)
            for name, text, meaning in definitions_of(kind)
        ],
        assumptions=assumptions(facts),
        threats=threats_of(rows, facts),
        parts=[_part(cells, facts, *where) for where in dict.fromkeys(map(_setting_round, cells))],
        pairs=[_pair_row(pair) for pair in pairs_of(rows, baseline)],
        baseline=baseline,
        membership=facts.membership,
        pictures=_draw_pictures(directory / REPORT / PICTURES, rows, images),
        attacks=[[n, _as_toml(own)] for n, own in facts.settings.get("attacks", {}).items()],
        defenses=[
            [n, _as_toml(own) or "the federation as the file has it"]
            for n, own in facts.settings.get("defenses", {}).items()
        ],
        config=tomli_w.dumps(tables_without_credentials(dict(facts.tables))),
        versions=list(facts.versions.items()),
        failed=[list(pair) for pair in facts.failed.items()],
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
            drawn = frontier(own, metric, title)
            if drawn is not None:
                figures.append(
                    (f"Accuracy against {title} by the strongest attack, {setting}", drawn)
                )
        for server_round in dict.fromkeys(cell.server_round for cell in own):
            of_round = [cell for cell in own if cell.server_round == server_round]
            title = f"Mean {TITLES[main]} by attack and defense, {setting}, round {server_round}"
            figures.append((title, heat_map(of_round, main)))
    return figures


def _setting_round(cell: Cell) -> tuple[str, int]:
    return cell.setting, cell.server_round


def _part(
    cells: Sequence[Cell], facts: ArenaFacts, setting: str, server_round: int
) -> dict[str, Any]:
    """Return the table of a setting and round, with the metrics that were measured."""
    own = [cell for cell in cells if _setting_round(cell) == (setting, server_round)]
    measured = [name for name in METRICS if any(name in cell.metrics for cell in own)]
    header = ["attack", "defense", "epsilon", *(METRICS[name].title for name in measured)]
    rows = [
        [
            attacker_of(cell),
            cell.defense,
            str(facts.privacy.get((cell.setting, cell.defense), "-")),
            *(_marked(cell, cells, name) for name in measured),
            None if cell.accuracy is None else f"{cell.accuracy.mean:.4f}",
            f"{max((i.count for i in cell.metrics.values()), default=0)} / {cell.images}",
        ]
        for cell in own
    ]
    return {
        "title": f"{setting}, round {server_round}",
        "header": [*header, "accuracy", "updates / examples"],
        "rows": rows,
    }


@dataclass(frozen=True)
class _Metric:
    """How a metric is shown: its title, digits after the point, and what it is multiplied by."""

    title: str
    digits: int
    scale: float = 1.0


METRICS = {
    "identified": _Metric("identified, %", 0, 100.0),
    "psnr": _Metric("PSNR, dB", 1),
    "ssim": _Metric("SSIM", 3),
    "lpips": _Metric("LPIPS", 3),
    "mse": _Metric("MSE", 4),
    "cell_accuracy": _Metric("cells right, %", 1, 100.0),
    "number_accuracy": _Metric("numbers right, %", 1, 100.0),
    "category_accuracy": _Metric("categories right, %", 1, 100.0),
    "trusted_accuracy": _Metric("trusted cells right, %", 1, 100.0),
    "token_accuracy": _Metric("tokens right, %", 1, 100.0),
    "rouge1": _Metric("ROUGE-1, %", 1, 100.0),
    "rouge2": _Metric("ROUGE-2, %", 1, 100.0),
    "exact_match": _Metric("exactly right, %", 0, 100.0),
    "label_accuracy": _Metric("labels right, %", 0, 100.0),
}


def _marked(cell: Cell, cells: Sequence[Cell], name: str) -> dict[str, str] | None:
    shown = _shown(cell.metrics.get(name), METRICS[name])
    if shown and name in (cell.main_metric, "identified") and is_below_floor(cell, cells, name):
        shown["text"] += f" {BELOW}"
    return shown


def _shown(interval: Interval | None, metric: _Metric) -> dict[str, str] | None:
    if interval is None:
        return None

    def text(value: float) -> str:
        return f"{metric.scale * value:.{metric.digits}f}"

    low, high = interval.low, interval.high
    if metric.title.startswith("identified"):
        low, high = share_interval(interval)
    small = "" if math.isnan(low) else f"{text(low)} to {text(high)}"
    return {"text": text(interval.mean), "small": small}


def _as_toml(tables: Any) -> str:
    return tomli_w.dumps(tables).strip() if isinstance(tables, dict) else str(tables)


def _pair_row(pair: Pair) -> list[str]:
    p_value = pair.comparison.p_value
    return [
        pair.setting,
        str(pair.server_round),
        pair.defense,
        f"{pair.first} - {pair.second}",
        _with_interval(pair.comparison.difference, 2),
        str(pair.comparison.difference.count),
        "-" if math.isnan(p_value) else f"{p_value:.3g}",
    ]


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
            columns=COLUMNS,
            cell=CELL,
        )
        pictures.append({"file": f"{PICTURES}/{path.name}", "title": ", ".join(names)})
    return pictures
