"""The experiment that unlearns clients of a run, made from the run's own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from atoll.errors import InvalidExperimentError, RunDirectoryError
from atoll.platform.config.experiment import Experiment
from atoll.platform.config.unlearning.settings import ASCENT_ROUNDS, RETRAIN
from atoll.platform.run_directory.run_config import load_run_config
from atoll.platform.run_directory.run_files import (
    APP_TABLE,
    CONFIG,
    check_run_directory,
    read_config,
    read_result,
)

# Of the paper: one round of repair is as good as retraining there; a few are cheap.
REPAIR_ROUNDS = 3


def unlearning_experiment(
    run_directory: Path,
    nodes: Sequence[int],
    method: str,
    rounds: int | None,
    settings: Mapping[str, Any],
    workers: int | None = None,
) -> Experiment:
    """Return the experiment by which a run's clients are unlearned.

    It is the run's own, with ``[unlearn]`` and other rounds; captures of clients that leave, early
    stopping and warm-up are left out.

    Parameters
    ----------
    run_directory : Path
        A run that has ended.
    nodes : Sequence[int]
        Who leaves.
    method : str
        As in ``[unlearn]``.
    rounds : int or None
        Rounds of repair, of "retrain" all rounds; by default 3, of "retrain" the run's.
    settings : Mapping
        Other keys of ``[unlearn]``.
    workers : int, optional
        Worker processes.

    Raises
    ------
    AtollError
        If it is no such run, or the experiment cannot be.
    """
    check_run_directory(run_directory)
    if APP_TABLE in read_config(run_directory):
        raise RunDirectoryError(
            f"{run_directory / CONFIG}: is of a Flower app, whose clients are its own; expected a "
            "run of an experiment"
        )
    before = load_run_config(run_directory)
    if before.unlearn is not None:
        raise RunDirectoryError(
            f"{run_directory}: is itself a run that unlearns; expected the run that came before it"
        )
    if read_result(run_directory) is None:
        raise RunDirectoryError(
            f"{run_directory}: has not ended; expected a finished run ('atoll resume "
            f"{run_directory}' continues it)"
        )
    known = {"nodes", "method", "run"} & settings.keys()
    if known:
        key = min(known)
        raise InvalidExperimentError(
            f"--set {key}={settings[key]}: is said by the command; expected another key of "
            "[unlearn]"
        )
    tables = before.to_dict()
    unlearn = {"nodes": sorted(set(nodes)), "method": method, **settings}
    if method != RETRAIN:
        unlearn["run"] = str(run_directory.absolute())
        _change_for_a_start(tables)
    run = tables["run"]
    repair = rounds if rounds is not None else REPAIR_ROUNDS
    if method != RETRAIN:
        run["rounds"] = ASCENT_ROUNDS.get(method, 0) + repair
    elif rounds is not None:
        run["rounds"] = rounds
    run["name"] = f"{run['name']}-{method}"[:200]
    run["out"] = str(run_directory.absolute().parent)
    if isinstance(run.get("keep"), int) and run["keep"] > run["rounds"]:
        run["keep"] = "last"
    if workers is not None:
        tables["ray"]["workers"] = workers
    _leave_out_captures(tables, unlearn["nodes"])
    return Experiment.from_dict({**tables, "unlearn": unlearn})


def _change_for_a_start(tables: dict[str, Any]) -> None:
    """Leave out what is for a model that begins to learn."""
    tables["run"].pop("early_stopping", None)
    tables["client"].get("schedule", {}).pop("warmup_rounds", None)
    if "poison" in tables:
        tables["poison"]["start_round"] = 1


def _leave_out_captures(tables: dict[str, Any], nodes: Sequence[int]) -> None:
    """Leave out captures of clients that leave, and of rounds that there are not."""
    capture = tables.pop("capture", None)
    if capture is None:
        return
    everyone = range(1, tables["data"]["clients"] + 1)
    captured = everyone if capture["nodes"] == "all" else capture["nodes"]
    staying = [node for node in captured if node not in nodes]
    there = [number for number in capture["rounds"] if number <= tables["run"]["rounds"]]
    if staying and there:
        tables["capture"] = {"nodes": staying, "rounds": there}
