"""How a run or a sweep's trial stands, as its directory tells of it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from atoll.platform.callbacks.metric_names import (
    ATTACK_SUCCESS,
    EVALUATE,
    MAIN,
    SERVER,
    TRAIN,
    metrics_in,
)
from atoll.platform.callbacks.observers import RoundRecord, RunInfo
from atoll.platform.run_directory.run_files import (
    CONFIG,
    ROUNDS,
    has_table,
    read_config,
    read_engine,
    read_rounds_table,
)
from atoll.platform.sweeps.trial_rows import FAILED, WAITING


def read_info(directory: Path) -> RunInfo | None:
    """Return what a run announced when its rounds began; None if they have not yet.

    Raises
    ------
    RunDirectoryError
        If it cannot be read.
    """
    engine = read_engine(directory)
    if engine is None:
        return None
    run = read_config(directory).get("run", {})
    return RunInfo(
        name=plain(str(run.get("name", directory.name)) if isinstance(run, dict) else "?"),
        directory=directory,
        num_rounds=engine.num_rounds,
        first_round=1,
        workers=engine.workers,
        clients=engine.clients,
        parameters=engine.parameters,
        strategy=engine.strategy,
        notes=engine.notes,
    )


def read_rounds(directory: Path) -> list[RoundRecord]:
    """Return the rounds in a run's ledger, without their clients.

    Raises
    ------
    RunDirectoryError
        If it cannot be read.
    """
    if not has_table(directory / ROUNDS):
        return []
    info = read_info(directory)
    last = 0 if info is None else info.num_rounds
    rows = read_rounds_table(directory / ROUNDS).to_pylist()
    return [_record_of(row, last) for row in rows]


def _record_of(row: Mapping[str, Any], num_rounds: int) -> RoundRecord:
    return RoundRecord(
        server_round=row["round"],
        num_rounds=num_rounds,
        seconds=row["seconds"],
        cohort=row["cohort"],
        replies=row["replies"],
        errors=row["errors"],
        examples=row["examples"],
        train_metrics=metrics_in(row, TRAIN),
        evaluate_metrics=metrics_in(row, EVALUATE),
        server_metrics=metrics_in(row, SERVER),
        bytes_down=row["bytes_down"],
        bytes_up=row["bytes_up"],
    )


def plain(text: str) -> str:
    """Return a text without what would move a terminal's cursor."""
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


def standing_of(row: Mapping[str, Any], place: Path) -> tuple[str, str]:
    """Return a trial's state and its figures, in words."""
    if row["status"] == FAILED:
        return FAILED, str(row["error"])
    if row["status"] == WAITING and not (place / CONFIG).exists():
        return WAITING, ""
    rounds = read_rounds(place)
    metrics = rounds[-1].server_metrics if rounds else {}
    shown = (*MAIN, ATTACK_SUCCESS)
    figures = [f"{k} {v:.4f}" for k in shown if isinstance(v := metrics.get(k), float)]
    if row["status"] == WAITING:
        return f"round {len(rounds)}/{row['of_rounds']}", ", ".join(figures)
    if row["rounds"] != row["of_rounds"]:
        figures.insert(0, f"round {row['rounds']}/{row['of_rounds']}")
    return str(row["status"]), ", ".join(figures)
