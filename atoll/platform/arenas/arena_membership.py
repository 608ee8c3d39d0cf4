"""Membership inference in an arena: on the captures of every federation, beside the inversions."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from atoll.attacks.threat.capabilities import ThreatModel
from atoll.errors import CaptureError
from atoll.platform.arenas.arena_plan import Arena, setting_of
from atoll.platform.attack_runs.membership_run import ROWS, MembershipRun, run_membership
from atoll.platform.reports.arena.facts import ArenaFacts
from atoll.platform.run_directory.run_files import read_result, read_table
from atoll.platform.sweeps.trial_rows import TRIALS

FOLDER = "arena-membership"


def membership_rows(arena: Arena, federations: Path) -> list[dict[str, Any]]:
    """Return the scores of candidates of all federations that have ended.

    Those of a federation are computed once, and kept in its run directory. Where the server sees
    sums alone, or nothing was captured, there is nothing to ask.

    Parameters
    ----------
    arena : Arena
        With ``arena.membership``; without, there are no rows.
    federations : Path
        The directory of the federations.

    Returns
    -------
    list[dict]
        One a candidate: setting, defense, seed, and the columns of :class:`MembershipRun`.
    """
    candidates = arena.settings.membership
    if candidates is None:
        return []
    found: list[dict[str, Any]] = []
    for trial in arena.federations.trials:
        place = federations / TRIALS / trial.name
        if trial.method in arena.settings.sums or read_result(place) is None:
            continue
        labels = {"setting": setting_of(trial), "defense": trial.method, "seed": trial.seed}
        found += [labels | row for row in _rows_of(place, candidates, trial.seed)]
    return found


def _rows_of(place: Path, candidates: int, seed: int) -> list[dict[str, Any]]:
    kept = place / "attacks" / f"{FOLDER}-{candidates}"
    if (kept / ROWS).is_file():
        rows: list[dict[str, Any]] = read_table(kept / ROWS).to_pylist()
        return rows
    try:
        return run_membership(place, candidates=candidates, seed=seed, out=kept).rows
    except CaptureError:
        return []


def membership_table(rows: Sequence[dict[str, Any]], facts: ArenaFacts) -> Iterator[list[str]]:
    """Yield the figures of each setting, defense and method, over the candidates of all seeds.

    Parameters
    ----------
    rows : Sequence[dict]
        As of :func:`membership_rows`.
    facts : ArenaFacts
        Has the epsilon of each defense.
    """
    for setting, defense in dict.fromkeys((row["setting"], row["defense"]) for row in rows):
        own = [row for row in rows if (row["setting"], row["defense"]) == (setting, defense)]
        shared = set.intersection(*(set(row) for row in own))
        pooled = [{key: value for key, value in row.items() if key in shared} for row in own]
        found = MembershipRun(Path(), ThreatModel(), pooled)
        spent = str(facts.privacy.get((setting, defense), "no guarantee"))
        for row in found.tables()[0].rows:
            yield [setting, defense, spent, *map(str, row[1:])]
