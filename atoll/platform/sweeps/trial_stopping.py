"""Stopping a sweep's trials early: asynchronous successive halving, decided by Ray Tune.

Ray Tune's scheduler (ASHA; Li et al., 2020, arXiv 1810.05934) holds the rungs and decides; a
trial asks it after every round. A trial that is stopped is an interrupted run with a checkpoint:
it continues to the same end when the sweep no longer stops trials. Trials compete with those of the
same method and held-out domains only, as accuracies on different domains do not compare.

The decisions depend on the order in which trials come to a rung, so with several trials at once a
sweep may stop others when it is run again. What a trial comes to does not depend on it.
"""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from atoll.errors import EngineError
from atoll.lazy import LazyModule
from atoll.platform.callbacks.metric_names import Mode, main_metric, mode_of
from atoll.platform.callbacks.observers import RoundRecord
from atoll.platform.cluster.bounded_waits import answer
from atoll.platform.config.sweep_sections import TrialStoppingSettings
from atoll.platform.run_directory.checkpoint import CheckpointStore
from atoll.platform.run_directory.run_files import ROUND_ONLY, ROUNDS, has_table, read_rounds_table

logger = logging.getLogger("atoll")
# Ray Tune is an extra of Ray's.
schedulers = LazyModule("ray.tune.schedulers")


class TrialStopped(Exception):  # noqa: N818 - it is no error
    """A trial is not to continue.

    Attributes
    ----------
    server_round : int
        The round that it has ended with.
    value : float
        Its metric there.
    metric : str
        Which metric that is.
    """

    def __init__(self, server_round: int, value: float, metric: str = "") -> None:
        super().__init__(server_round, value, metric)
        self.server_round = server_round
        self.value = value
        self.metric = metric


class Halving:
    """Decides whether trials continue (a Ray actor).

    Parameters
    ----------
    settings : TrialStoppingSettings
        The rule.
    rounds : int
        The rounds of the longest trial.
    """

    def __init__(self, settings: TrialStoppingSettings, rounds: int) -> None:
        self._settings = settings
        self._rounds = rounds
        self._scheduler_class = asha_scheduler()
        self._schedulers: dict[str, Any] = {}
        self._known: dict[tuple[str, str], Any] = {}
        self._verdicts: dict[tuple[str, str, int], bool] = {}

    def report(self, group: str, trial: str, server_round: int, value: float) -> bool:
        """Take a trial's metric after a round; return whether the trial is to stop.

        Parameters
        ----------
        group : str
            Those that it competes with.
        trial : str
            Its name.
        server_round : int
            The round that has ended; of a round that was reported before, the verdict stays: a
            trial may have been killed before it could do as it was told.
        value : float
            The metric; a trial whose metric is not finite stops when its grace is over.
        """
        place = group, trial, server_round
        if place not in self._verdicts:
            self._verdicts[place] = self._judge(group, trial, server_round, value)
        return self._verdicts[place]

    def _judge(self, group: str, trial: str, server_round: int, value: float) -> bool:
        settings = self._settings
        if not math.isfinite(value):
            return server_round >= settings.grace_rounds
        if group not in self._schedulers:
            self._schedulers[group] = self._scheduler_class(
                time_attr="round",
                metric="value",
                mode=settings.mode or "max",
                max_t=max(self._rounds, settings.grace_rounds),
                grace_period=settings.grace_rounds,
                reduction_factor=settings.reduction_factor,
                stop_last_trials=False,
            )
        scheduler = self._schedulers[group]
        if (group, trial) not in self._known:
            # All that the scheduler asks of a trial is its id.
            self._known[group, trial] = SimpleNamespace(trial_id=trial)
            scheduler.on_trial_add(None, self._known[group, trial])
        result = {"round": server_round, "value": value}
        return bool(scheduler.on_trial_result(None, self._known[group, trial], result) == "STOP")


def asha_scheduler() -> Any:
    """Return Ray Tune's scheduler class.

    Raises
    ------
    EngineError
        If Ray was installed without Ray Tune.
    """
    try:
        return schedulers.ASHAScheduler
    except ImportError as error:
        raise EngineError(
            f'sweep.early_stopping needs Ray Tune ({error}): pip install "atoll[cluster]"'
        ) from error


@dataclass(frozen=True)
class AskAfterRound:
    """A run's callback: asks a :class:`Halving` after every round whether to continue.

    Attributes
    ----------
    halving : ActorHandle
        Who decides.
    metric : str or None
        What is reported; by default the task's main metric.
    group, trial : str
        Of which trial.
    mode : "max", "min" or None
        Whether larger or smaller values are better; by default as the metric is known to be.
    """

    halving: Any
    metric: str | None
    group: str
    trial: str
    mode: Mode | None = None

    def __call__(self, record: RoundRecord) -> None:
        """Raise :class:`TrialStopped` if the trial is not to continue."""
        metric = self.metric or record.main_metric
        value = None if metric is None else record.metric(metric)
        is_last = record.server_round == record.num_rounds
        if metric is None or value is None:
            if is_last:
                logger.warning("sweep.early_stopping.metric = %r: is no metric", self.metric)
            return
        self._ask(record.server_round, record.num_rounds, metric, value)

    def before_going_on(self, directory: Path, num_rounds: int) -> None:
        """Ask after the round from which an interrupted trial resumes: the answer may be missing.

        Raises
        ------
        TrialStopped
            If the trial is not to continue.
        """
        rounds = CheckpointStore(directory / "checkpoints").rounds()
        metric, values = recorded_values(directory, self.metric)
        for server_round, value in values:
            if rounds and server_round == rounds[-1]:
                self._ask(server_round, num_rounds, metric, value)

    def _ask(self, server_round: int, num_rounds: int, metric: str, value: float) -> None:
        told = signed(metric, self.mode, value)
        reply = self.halving.report.remote(self.group, self.trial, server_round, told)
        if answer(reply, "the actor that stops trials early") and server_round < num_rounds:
            raise TrialStopped(server_round, value, metric)


def signed(metric: str, mode: Mode | None, value: float) -> float:
    """Return what a scheduler is told: the value, or without a mode one of which more is better."""
    return -value if mode is None and mode_of(metric) == "min" else value


def recorded_metric(
    directory: Path, metric: str | None, mode: Mode | None = None
) -> list[tuple[int, float]]:
    """Return a trial's metric by round as a scheduler is told it, as far as its ledger goes."""
    column, values = recorded_values(directory, metric)
    return [(r, signed(column, mode, value)) for r, value in values]


def recorded_values(directory: Path, metric: str | None) -> tuple[str, list[tuple[int, float]]]:
    """Return which metric a trial is judged by, and its values by round."""
    path = directory / ROUNDS
    if not has_table(path):
        return metric or "", []
    table = read_rounds_table(path, ROUND_ONLY)
    column = main_metric(table.column_names) if metric is None else metric.replace("-", "_")
    if column is None or column not in table.column_names:
        return metric or "", []
    rounds, values = table.column("round").to_pylist(), table.column(column).to_pylist()
    return column, [(r, float(v)) for r, v in zip(rounds, values, strict=True) if v is not None]
