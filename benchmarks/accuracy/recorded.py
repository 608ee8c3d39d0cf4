"""What tables and lists of trials have in common: commits, spreads, and trials that are missing."""

from __future__ import annotations

import argparse
import datetime
import json
import statistics
import subprocess
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from atoll.files.atomic import write_text
from benchmarks.paths import ROOT


def commit() -> str:
    """Return the commit of this tree, with a plus sign if it was changed since."""
    git = ["git", "describe", "--always", "--dirty=+"]
    told = subprocess.run(git, cwd=ROOT, capture_output=True, text=True, check=True)
    return told.stdout.strip()


def mean_and_range(values: Sequence[float]) -> str:
    """Return the mean with the least and the largest value, as a cell of a table."""
    return f"{statistics.fmean(values):.3f} ({min(values):.3f} to {max(values):.3f})"


def add_trial_options(
    parser: argparse.ArgumentParser,
    seeds: Sequence[int] | None,
    *,
    seconds: float = 1e9,
    needs_file: bool = True,
) -> None:
    """Add the options of a script whose trials are in a JSON file.

    Parameters
    ----------
    parser : ArgumentParser
        The script's.
    seeds : Sequence[int] or None
        The default of ``--seeds``; None where it is a file's.
    seconds : float
        The default of ``--seconds``.
    needs_file : bool
        Whether one of ``--out`` and ``--table`` must be given.
    """
    default = None if seeds is None else list(seeds)
    said = "by default the file's" if seeds is None else None
    parser.add_argument("--seeds", nargs="+", type=int, default=default, help=said)
    file = parser.add_mutually_exclusive_group(required=needs_file)
    file.add_argument("--out", type=Path, help="a JSON file that trials are added to")
    file.add_argument("--table", type=Path, help="such a file: prints its tables")
    parser.add_argument("--seconds", type=float, default=seconds, help="begin no trial after these")


def run_missing(
    keys: Iterable[tuple[Any, ...]],
    names: Sequence[str],
    figures_of: Callable[..., dict[str, Any]],
    out: Path,
    seconds: float,
) -> None:
    """Run the trials that are not in a JSON file yet, and add each to it as it ends.

    Parameters
    ----------
    keys : Iterable[tuple]
        The trials.
    names : Sequence[str]
        What the parts of a key are called in the file.
    figures_of : Callable
        Called with the parts of a key; returns what the file has beside them.
    out : Path
        The file; an empty list if no trial was run.
    seconds : float
        After these no trial is begun.
    """
    began = time.monotonic()
    if not out.exists():
        # A table of no trials can be printed where there is no time for the first.
        write_text(out, "[]")
    found = json.loads(out.read_text())
    done = {tuple(trial[name] for name in names) for trial in found}
    for key in keys:
        if key in done:
            continue
        if time.monotonic() - began > seconds:
            print("out of time; run it again for the rest")
            break
        started = time.monotonic()
        figures = figures_of(*key)
        found.append({**dict(zip(names, key, strict=True)), **figures})
        write_text(out, json.dumps(found, indent=1))
        print(*key, figures, f"{time.monotonic() - started:.1f} s", flush=True)


def date_and_commit() -> str:
    """Return them as a table's heading has them."""
    return f"{datetime.date.today()}, commit {commit()}"
