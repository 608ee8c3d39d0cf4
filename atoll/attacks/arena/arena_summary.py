"""Cells of an arena: attack x knowledge x defense, with intervals and tests, from its rows."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from atoll.attacks.arena.paired_tests import Comparison, Interval, bootstrap, compare
from atoll.attacks.metrics.kinds import MAIN, METRICS, kind_of

Row = dict[str, Any]
CELL = ("setting", "round", "attack_label", "knowledge", "defense")


@dataclass(frozen=True)
class Cell:
    """One attack on the victims of one defense, in one setting and round.

    Attributes
    ----------
    setting : str
        The grid's keys and values, as text.
    server_round : int
        When the victims were captured.
    attack, knowledge, defense : str
        Which, by their labels in the arena.
    method : str
        The attack's name in ``atoll list attacks``, or ``module:Class``.
    threat, label_source : str
        What the attacker had, and where its labels came from.
    metrics : dict[str, Interval]
        By name, over victims; those that were measured.
    images : int
        Examples, of whichever kind, over all victims.
    accuracy : Interval or None
        Of the federation at its end, over seeds.
    """

    setting: str
    server_round: int
    attack: str
    knowledge: str
    defense: str
    method: str
    threat: str
    label_source: str
    metrics: dict[str, Interval]
    images: int
    accuracy: Interval | None

    @property
    def main_metric(self) -> str:
        """The name of the main metric of the kind of examples."""
        return next(name for name in MAIN.values() if name in self.metrics)


def cells_of(rows: Sequence[Row]) -> list[Cell]:
    """Return the cells of a table, in its order."""
    return [_cell(group) for group in _grouped(rows).values()]


def _grouped(rows: Iterable[Row]) -> dict[tuple[Any, ...], list[Row]]:
    groups: dict[tuple[Any, ...], list[Row]] = defaultdict(list)
    for row in rows:
        groups[tuple(row[name] for name in CELL)].append(row)
    return groups


def _cell(rows: Sequence[Row]) -> Cell:
    first = rows[0]
    metrics = {}
    for name in METRICS:
        values = list(by_victim(rows, name).values())
        if values:
            metrics[name] = bootstrap(values)
    accuracies = {row["seed"]: row["accuracy"] for row in rows if row["accuracy"] is not None}
    return Cell(
        setting=first["setting"],
        server_round=first["round"],
        attack=first["attack_label"],
        knowledge=first["knowledge"],
        defense=first["defense"],
        method=first["attack"],
        threat=first["threat"],
        label_source=first["label_source"],
        metrics=metrics,
        images=len(rows),
        accuracy=bootstrap(list(accuracies.values())) if accuracies else None,
    )


def by_victim(rows: Iterable[Row], metric: str) -> dict[tuple[Any, ...], float]:
    """Return each victim's mean of a metric over its images; victims without it are left out."""
    values: dict[tuple[Any, ...], list[float]] = defaultdict(list)
    for row in rows:
        if row.get(metric) is not None:
            values[row["setting"], row["round"], row["seed"], row["node_id"]].append(
                float(row[metric])
            )
    return {victim: float(np.mean(some)) for victim, some in values.items()}


@dataclass(frozen=True)
class Pair:
    """Two attackers on the same victims.

    Attributes
    ----------
    setting, server_round, defense : str, int, str
        Whose victims.
    first, second : str
        The attackers.
    comparison : Comparison
        Of the victims' main metric (images: PSNR), first - second.
    """

    setting: str
    server_round: int
    defense: str
    first: str
    second: str
    comparison: Comparison


def pairs_of(rows: Sequence[Row], baseline: str | None) -> list[Pair]:
    """Compare each adaptive attacker with the naive one, and each attack with the baseline.

    Parameters
    ----------
    rows : Sequence[dict]
        The table.
    baseline : str or None
        The label of the attack that others are compared with.
    """
    groups = _grouped(rows)
    main = MAIN[kind_of(rows[0])] if rows else ""
    pairs = []
    for (setting, server_round, attack, knowledge, defense), own in groups.items():
        others = []
        if knowledge == "adaptive":
            others.append((attack, "naive"))
        if baseline is not None and attack != baseline:
            others.append((baseline, knowledge))
            if (setting, server_round, baseline, knowledge, defense) not in groups:
                others[-1] = (baseline, "naive")
        for other in others:
            theirs = groups.get((setting, server_round, *other, defense))
            if theirs is None:
                continue
            first, second = by_victim(own, main), by_victim(theirs, main)
            shared = [victim for victim in first if victim in second]
            if shared:
                pairs.append(
                    Pair(
                        setting,
                        server_round,
                        defense,
                        f"{attack} ({knowledge})",
                        f"{other[0]} ({other[1]})",
                        compare([first[v] for v in shared], [second[v] for v in shared]),
                    )
                )
    return pairs
