"""The conclusion of an arena's report: who identifies how many examples, and at what cost."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from atoll.attacks.arena.arena_summary import Cell
from atoll.attacks.arena.paired_tests import CONFIDENCE, Interval
from atoll.attacks.base.attack_names import BASELINES
from atoll.attacks.metrics.kinds import TITLES
from atoll.platform.reports.arena.facts import ArenaFacts
from atoll.platform.reports.figures.arena_figures import attacker_of

Row = Mapping[str, Any]

# A federation whose accuracy is not further above chance has learnt next to nothing.
ABOVE_CHANCE = 0.05
FEW_VICTIMS = 10
# Marks figures at or below a baseline's.
BELOW = "°"
NOT_LEARNT = (
    "an update of a model that has not learnt may show more or less of its examples than one of a "
    "model in use, and the cost of a defense in accuracy cannot be seen"
)


@dataclass(frozen=True)
class Finding:
    """The strongest attack against a defense, in the round in which it identifies most.

    Attributes
    ----------
    cell : Cell
        Its metrics.
    identified, examples : int
        How many of how many examples it identifies.
    clients : int
        How many clients' updates, or sums of updates, these are of.
    interval : (float, float)
        Of the share, at 95 %, over updates; NaN for a single one.
    floor : Cell or None
        The baseline that identifies most.
    is_of_sums : bool
        Whether the attacker sees sums of updates.
    """

    cell: Cell
    identified: int
    examples: int
    clients: int
    interval: tuple[float, float]
    floor: Cell | None
    is_of_sums: bool

    @property
    def share(self) -> float:
        """The share of examples that are identified."""
        return self.identified / self.examples

    def __str__(self) -> str:
        low, high = self.interval
        between = (
            "no interval, of one update"
            if math.isnan(low)
            else f"95 % interval {100 * low:.0f} % to {100 * high:.0f} %"
        )
        return (
            f"{self.identified} of {self.examples} examples "
            f"({100 * self.share:.0f} %, {between}), of {self._updates()}"
        )

    def _updates(self) -> str:
        if self.is_of_sums:
            return f"{self.clients} sum{'' if self.clients == 1 else 's'} of clients' updates"
        return "1 client's update" if self.clients == 1 else f"{self.clients} clients' updates"


def findings(cells: Sequence[Cell], rows: Sequence[Row], facts: ArenaFacts) -> list[Finding]:
    """Return the strongest attack against each defense in each setting, by identification."""
    counts = _counts(rows)
    found = []
    for setting, defense in dict.fromkeys((cell.setting, cell.defense) for cell in cells):
        own = [c for c in cells if (c.setting, c.defense) == (setting, defense)]
        own = [cell for cell in own if "identified" in cell.metrics]
        attacks = [cell for cell in own if cell.method not in BASELINES] or own
        if not attacks:
            continue
        cell = max(attacks, key=_strength)
        floors = [c for c in own if c.method in BASELINES and c.server_round == cell.server_round]
        identified, examples, clients = counts[_key_of(cell)]
        interval = share_interval(cell.metrics["identified"])
        floor = max(floors, key=_strength) if floors and cell not in floors else None
        is_of_sums = defense in facts.settings.get("sums", ())
        found.append(Finding(cell, identified, examples, clients, interval, floor, is_of_sums))
    return found


def share_interval(share: Interval) -> tuple[float, float]:
    """Return the ends of a share's interval.

    Where all victims agree, resamples of them do too; the interval is then Clopper and Pearson's
    (1934), victims counting as trials.
    """
    tail = (1 - CONFIDENCE) / 2
    if share.count > 1 and share.mean in (0.0, 1.0):
        bound = tail ** (1 / share.count)
        return (bound, 1.0) if share.mean else (0.0, 1 - bound)
    return share.low, share.high


def sentences(found: Sequence[Finding], facts: ArenaFacts) -> list[str]:
    """Return the conclusion in words: without a defense, and under each one."""
    said = []
    for finding in found:
        cell = finding.cell
        plain = _undefended(found, cell, facts)
        where = "" if cell.setting == "as in the file" else f"With {cell.setting}, "
        if plain is finding:
            who = "without a defense" if where else "Without a defense"
        else:
            who = f"{'against' if where else 'Against'} {cell.defense}"
        text = (
            f"{where}{who}, the strongest attack is {attacker_of(cell)} on round "
            f"{cell.server_round}: it identifies {finding}."
        )
        if finding.floor is not None:
            share = finding.floor.metrics["identified"].mean
            text += f" The highest baseline, {attacker_of(finding.floor)}: {100 * share:.0f} %."
        text += _cost(finding, plain)
        spent = facts.privacy.get((cell.setting, cell.defense))
        if spent is not None:
            text += f" Clients have spent epsilon = {spent}."
        said.append(text)
    return said


def _cost(finding: Finding, plain: Finding | None) -> str:
    own = finding.cell.accuracy
    if own is None:
        return ""
    text = f" The federation reaches an accuracy of {own.mean:.3f}"
    if plain is not None and plain is not finding and plain.cell.accuracy is not None:
        difference = own.mean - plain.cell.accuracy.mean
        text += f", {difference:+.3f} against no defense"
    return f"{text}."


def _undefended(found: Sequence[Finding], cell: Cell, facts: ArenaFacts) -> Finding | None:
    return next(
        (
            each
            for each in found
            if each.cell.setting == cell.setting and each.cell.defense == facts.undefended
        ),
        None,
    )


def summary_rows(found: Sequence[Finding], facts: ArenaFacts) -> list[list[Any]]:
    """Return the conclusion as a table, a row a defense."""
    rows: list[list[Any]] = []
    for finding in found:
        cell = finding.cell
        low, high = finding.interval
        between = "" if math.isnan(low) else f"{100 * low:.0f} to {100 * high:.0f} %"
        plain = _undefended(found, cell, facts)
        difference = None
        if plain and plain is not finding and cell.accuracy and plain.cell.accuracy:
            difference = f"{cell.accuracy.mean - plain.cell.accuracy.mean:+.3f}"
        rows.append(
            [
                cell.setting,
                cell.defense,
                str(facts.privacy.get((cell.setting, cell.defense), "no guarantee")),
                f"{attacker_of(cell)}, round {cell.server_round}",
                {
                    "text": f"{finding.identified} of {finding.examples} "
                    f"({100 * finding.share:.0f} %)",
                    "small": between,
                },
                None
                if finding.floor is None
                else f"{100 * finding.floor.metrics['identified'].mean:.0f} %",
                None
                if cell.accuracy is None
                else {"text": f"{cell.accuracy.mean:.3f}", "small": difference or ""},
            ]
        )
    return rows


def warnings(cells: Sequence[Cell], found: Sequence[Finding], facts: ArenaFacts) -> Iterator[str]:
    """Yield what limits the conclusion."""
    if facts.failed:
        reason = next(iter(facts.failed.values()))
        yield (
            f"{len(facts.failed)} federations or attacks failed, and what they would have shown is "
            f"missing here. The first: {reason}"
        )
    if facts.federations_left or facts.attacks_left:
        yield (
            f"The arena has not ended: {facts.federations_left} federations, and "
            f"{facts.attacks_left} attacks on the others, are still to be run. Intervals become "
            "narrower when they are ('atoll arena' again continues)."
        )
    yield from _no_better_than_chance(cells, facts)
    yield from _below_the_floor(cells, found)
    few = sorted({f.clients for f in found if f.clients < FEW_VICTIMS})
    if few:
        yield (
            f"Some figures are of {few[0]} updates only: fewer than {FEW_VICTIMS} say little of "
            "other clients (arena.victims, arena.seeds)."
        )


def _no_better_than_chance(cells: Sequence[Cell], facts: ArenaFacts) -> Iterator[str]:
    if facts.classes is None:
        return
    chance = 1 / facts.classes
    poor: dict[str, float] = {}
    for cell in cells:
        if cell.accuracy is not None and cell.accuracy.mean <= chance + ABOVE_CHANCE:
            poor[_place(cell)] = cell.accuracy.mean
    if poor:
        named = ", ".join(f"{name} ({mean:.3f})" for name, mean in poor.items())
        yield (
            f"Federations no better than chance (accuracy within {ABOVE_CHANCE:g} of "
            f"1/{facts.classes} = {chance:.3f}): {named}. Read them with care: {NOT_LEARNT}."
        )


def _below_the_floor(cells: Sequence[Cell], found: Sequence[Finding]) -> Iterator[str]:
    """Yield that attacks show no more than a baseline which hardly looks at the update."""
    weak = [
        _place(finding.cell)
        for finding in found
        if finding.floor is not None and is_below_floor(finding.cell, cells, "identified")
    ]
    if weak:
        yield (
            f"Against {_listed(weak)} even the strongest attack identifies no more examples than "
            "a baseline that hardly looks at the update. This is evidence neither of leakage nor "
            "of the defense's strength: another attack may do better."
        )
    attacks = [cell for cell in cells if cell.method not in BASELINES]
    main = [(metric, _name_of(metric)) for metric in {cell.main_metric: 0 for cell in attacks}]
    for metric, name in (("identified", "identified examples"), *main):
        below = [cell for cell in attacks if is_below_floor(cell, cells, metric)]
        if below:
            yield (
                f"{len(below)} of {len(attacks)} results of attacks are at or below their baseline "
                f"by {name}; they are marked with {BELOW} in the tables."
            )


def is_below_floor(cell: Cell, cells: Sequence[Cell], metric: str) -> bool:
    """Tell whether an attack shows no more than the best baseline on the same updates."""
    floors = [
        other.metrics[metric].mean
        for other in cells
        if _where(other) == _where(cell) and other.method in BASELINES and metric in other.metrics
    ]
    own = cell.metrics.get(metric)
    return bool(floors and own and cell.method not in BASELINES and own.mean <= max(floors))


def disagreements(cells: Sequence[Cell], main: str) -> list[str]:
    """Return where the strongest attack by the main metric is another than by identification."""
    said = []
    for where in dict.fromkeys(map(_where, cells)):
        own = [c for c in cells if _where(c) == where and c.method not in BASELINES]
        own = [c for c in own if {main, "identified"} <= set(c.metrics)]
        if len(own) < 2:
            continue
        by_main = max(own, key=lambda cell: cell.metrics[main].mean)
        by_share = max(own, key=_strength)
        if by_main.metrics["identified"].mean < by_share.metrics["identified"].mean:
            said.append(
                f"{_place(by_main)}, round {by_main.server_round}: by {_name_of(main)} "
                f"{_both(by_main, main)} is stronger, by identification {_both(by_share, main)}."
            )
    return said


def _name_of(metric: str) -> str:
    return "PSNR" if metric == "psnr" else f"the {TITLES[metric]}"


def _both(cell: Cell, main: str) -> str:
    value, share = cell.metrics[main].mean, cell.metrics["identified"].mean
    shown = f"{value:.1f} dB" if main == "psnr" else f"{100 * value:.1f} %"
    return f"{attacker_of(cell)} ({shown}, {100 * share:.0f} %)"


def _strength(cell: Cell) -> tuple[float, float]:
    main = cell.metrics.get(cell.main_metric)
    return cell.metrics["identified"].mean, -math.inf if main is None else main.mean


def _where(cell: Cell) -> tuple[str, int, str]:
    return cell.setting, cell.server_round, cell.defense


def _place(cell: Cell) -> str:
    return cell.defense if cell.setting == "as in the file" else f"{cell.defense}, {cell.setting}"


def _key_of(cell: Cell) -> tuple[Any, ...]:
    return cell.setting, cell.server_round, cell.attack, cell.knowledge, cell.defense


def _counts(rows: Sequence[Row]) -> dict[tuple[Any, ...], tuple[int, int, int]]:
    """Return by cell how many examples are identified, of how many, and of how many updates."""
    members: dict[tuple[Any, ...], list[Row]] = {}
    for row in rows:
        if row["identified"] is not None:
            key = ("setting", "round", "attack_label", "knowledge", "defense")
            members.setdefault(tuple(row[name] for name in key), []).append(row)
    return {
        key: (
            sum(bool(row["identified"]) for row in own),
            len(own),
            len({(row["seed"], row["node_id"]) for row in own}),
        )
        for key, own in members.items()
    }


def _listed(names: Sequence[str]) -> str:
    """Return "a", "a and b", "a, b and c"."""
    *first, last = names
    return f"{', '.join(first)} and {last}" if first else last
