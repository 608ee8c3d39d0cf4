"""Choice of a checkpoint among those that a run has kept: the last, the best, or of a round."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Literal

import pyarrow as pa

from atoll.errors import InvalidExperimentError, RunDirectoryError
from atoll.platform.callbacks.metric_names import SERVER_ACCURACY, main_metric, mode_of
from atoll.platform.config.sections import RunSettings
from atoll.platform.run_directory.checkpoint import CheckpointStore
from atoll.platform.run_directory.run_files import ROUND_ONLY, ROUNDS, read_rounds_table

CHECKPOINTS = "checkpoints"
WhichRound = Literal["best", "last"] | int


def parse_round(text: str) -> WhichRound:
    """Return the round that ``--round`` names.

    Raises
    ------
    InvalidExperimentError
        If it is none.
    """
    if text == "best":
        return "best"
    if text == "last":
        return "last"
    if text.isdecimal():
        return int(text)
    raise InvalidExperimentError(f"--round {text}: expected best, last or a number")


def checkpoints_of(directory: Path) -> CheckpointStore:
    """Return the checkpoints of a run directory."""
    return CheckpointStore(directory / CHECKPOINTS)


def choose_round(directory: Path, settings: RunSettings, which: WhichRound) -> int:
    """Return a round that there is a checkpoint of.

    Parameters
    ----------
    directory : Path
        The run directory.
    settings : RunSettings
        ``[run]``, whose ``keep_metric`` "best" is by.
    which : "best", "last" or int
        The round.

    Raises
    ------
    RunDirectoryError
        If there is no such checkpoint, with those that there are.
    """
    kept = checkpoints_of(directory).rounds()
    if not kept:
        raise RunDirectoryError(
            f"{directory / CHECKPOINTS}: has no checkpoint; expected that of at least one round"
        )
    there = f"expected a round that was kept: {', '.join(map(str, kept))}"
    if which == "last":
        return kept[-1]
    if which == "best":
        rounds = read_rounds_table(directory / ROUNDS, ROUND_ONLY)
        metric = settings.keep_metric or main_metric(rounds.column_names) or SERVER_ACCURACY
        found = best_round(rounds, metric, mode_of(metric, settings.keep_mode))
        if found is None:
            raise RunDirectoryError(
                f"{directory / ROUNDS}: has no values of run.keep_metric = {metric!r}, which the "
                f"best round is by; {there}"
            )
        if found not in kept:
            raise RunDirectoryError(
                f"{directory}: the best round by {metric} is {found}, and its checkpoint was not "
                f"kept (run.keep = 'best' keeps it); {there}"
            )
        return found
    if which not in kept:
        raise RunDirectoryError(f"{directory}: has no checkpoint of round {which!r}; {there}")
    return which


def best_round(rounds: pa.Table, metric: str, mode: str) -> int | None:
    """Return the first round with the best value of a metric; None if there are no values."""
    if metric not in rounds.column_names:
        return None
    sign = 1.0 if mode == "max" else -1.0
    pairs = zip(rounds.column("round").to_pylist(), rounds.column(metric).to_pylist(), strict=True)
    known = [(r, v) for r, v in pairs if isinstance(v, int | float) and not math.isnan(v)]
    return int(max(known, key=lambda pair: sign * pair[1])[0]) if known else None
