"""The figures of an arena's report, made from its cells."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from atoll.attacks.arena.arena_summary import Cell
from atoll.attacks.base.attack_names import BASELINES
from atoll.attacks.metrics.kinds import DIGITS, TITLES
from atoll.platform.reports.figures.drawing import Cells, Curve, Curves, Level


def attacker_of(cell: Cell) -> str:
    """Return a cell's attack with what it knows."""
    return cell.attack if cell.knowledge == "naive" else f"{cell.attack} ({cell.knowledge})"


def heat_map(cells: Sequence[Cell], metric: str) -> Cells:
    """Return attackers by defenses, in colours of the mean of a metric.

    Parameters
    ----------
    cells : Sequence[Cell]
        Of one setting and round.
    metric : str
        The metric.
    """
    attackers = list(dict.fromkeys(map(attacker_of, cells)))
    defenses = list(dict.fromkeys(cell.defense for cell in cells))
    found = {(attacker_of(c), c.defense): c.metrics.get(metric) for c in cells}
    means = [
        [None if (i := found.get((a, d))) is None else i.mean for d in defenses] for a in attackers
    ]
    digits = min(2, DIGITS[metric])
    texts = [["-" if value is None else f"{value:.{digits}f}" for value in row] for row in means]
    unit = "dB" if metric == "psnr" else TITLES[metric]
    return Cells(means, attackers, defenses, unit, "attack", "defense", texts=texts)


def frontier(cells: Sequence[Cell], metric: str, title: str) -> Curves | None:
    """Return accuracy against leakage: each defense's strongest attacker, baselines set aside.

    Parameters
    ----------
    cells : Sequence[Cell]
        Of one setting. A colour a defense, a symbol a round.
    metric : str
        What leakage is measured by: more is worse.
    title : str
        The metric with its unit.

    Returns
    -------
    Curves or None
        None where no accuracy is known, or the metric was not measured.
    """
    measured = [cell for cell in cells if cell.accuracy and metric in cell.metrics]
    baselines = [cell for cell in measured if cell.method in BASELINES]
    attacks = [cell for cell in measured if cell.method not in BASELINES] or baselines
    if not attacks:
        return None
    rounds = sorted({cell.server_round for cell in attacks})
    symbols = {server_round: place for place, server_round in enumerate(rounds)}
    defenses = list(dict.fromkeys(cell.defense for cell in attacks))
    curves = [
        _defense_points(strongest(attacks, defense, metric), metric, place, symbols)
        for place, defense in enumerate(defenses)
    ]
    if len(rounds) > 1:
        curves += [_round_key(server_round, symbol) for server_round, symbol in symbols.items()]
    level = None
    if baselines and attacks is not baselines:
        highest = max(baselines, key=lambda cell: cell.metrics[metric].mean)
        level = Level(f"highest baseline, {highest.attack}", highest.metrics[metric].mean)
    return Curves(curves, title, "accuracy of the federation", level=level, height=320, whole=False)


def strongest(cells: Sequence[Cell], defense: str, metric: str) -> list[Cell]:
    """Return a defense's cell of the largest mean in each round."""
    best: dict[int, Cell] = {}
    for cell in cells:
        known = best.get(cell.server_round)
        if cell.defense == defense and (
            known is None or cell.metrics[metric].mean > known.metrics[metric].mean
        ):
            best[cell.server_round] = cell
    return [best[server_round] for server_round in sorted(best)]


def _defense_points(
    points: Sequence[Cell], metric: str, color: int, symbols: Mapping[int, int]
) -> Curve:
    intervals = [cell.metrics[metric] for cell in points]
    return Curve(
        points[0].defense,
        [cell.accuracy.mean for cell in points if cell.accuracy],
        [interval.mean for interval in intervals],
        mark="both" if len(points) > 1 else "points",
        width=1.0,
        color=color,
        low=[_or_none(i.low) for i in intervals],
        high=[_or_none(i.high) for i in intervals],
        error=True,
        symbol=symbols[points[0].server_round],
        symbols=[symbols[cell.server_round] for cell in points],
        texts=[f"{c.defense}, round {c.server_round}: {attacker_of(c)}" for c in points],
        named=True,
    )


def _round_key(server_round: int, symbol: int) -> Curve:
    """Return a line of the legend: which symbol a round has."""
    return Curve(f"round {server_round}", [], [], mark="points", color=-1, symbol=symbol)


def _or_none(end: float) -> float | None:
    return None if math.isnan(end) else end
