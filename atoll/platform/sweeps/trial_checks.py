"""Preflight checks of many trials (:mod:`atoll.platform.runs.checks.preflight`): each setting once.

The trials of a sweep differ in a few keys and in their seeds. What is wrong with one of them is
known in a second, from one data set, partition and model of each kind; found by the trials
themselves it would be said as often as there are trials, a process each.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from atoll.errors import InvalidExperimentError
from atoll.platform.config.experiment import Experiment
from atoll.platform.runs.checks.preflight import check_components, check_settings
from atoll.platform.runs.components import ComponentCache, Components

if TYPE_CHECKING:
    from atoll.platform.sweeps.sweep_plan import Trial

logger = logging.getLogger("atoll")


class SettingsChecks:
    """Checks of experiments that have most of their settings in common, without data."""

    def __init__(self) -> None:
        self._settings: dict[str, str | None] = {}

    def check(self, experiment: Experiment) -> None:
        """Refuse what :func:`~atoll.platform.runs.checks.preflight.check_settings` refuses.

        Raises
        ------
        InvalidExperimentError
            With the key, the value and what was expected.
        """
        key = _key(experiment)
        if key not in self._settings:
            self._settings[key] = _problem(check_settings, experiment)
        problem = self._settings[key]
        if problem is not None:
            raise InvalidExperimentError(problem)


def check_trials(trials: Iterable[Trial]) -> None:
    """Refuse trials that cannot be run: their data, partition, model and strategy are made.

    Of trials that differ in their seeds alone, the first stands for all.

    Raises
    ------
    InvalidExperimentError
        What is wrong with the first that cannot be run, and which it is.
    """
    cache, seen = ComponentCache(), set[str]()
    with _said_once():
        for trial in trials:
            key = _key(trial.experiment)
            if key in seen:
                continue
            seen.add(key)
            problem = _problem(_make_and_check, trial.experiment, cache)
            if problem is not None:
                lines = [f"{line} (the trial {trial})" for line in problem.splitlines()]
                raise InvalidExperimentError("\n".join(lines))


def _make_and_check(experiment: Experiment, cache: ComponentCache) -> None:
    check_components(Components.of(experiment, cache))


def _problem(look: Callable[..., object], *arguments: Any) -> str | None:
    try:
        look(*arguments)
    except InvalidExperimentError as error:
        return str(error)
    return None


def _key(experiment: Experiment) -> str:
    """Return what a check of an experiment depends on: all but names, seeds and places."""
    tables = experiment.to_dict()
    tables["run"] = {"rounds": experiment.run.rounds}
    for section in ("ray", "log"):
        tables.pop(section, None)
    return json.dumps(tables, sort_keys=True, default=str)


@contextmanager
def _said_once() -> Iterator[None]:
    """Within this context, the same line is logged once."""
    said = set[str]()

    def is_new(record: logging.LogRecord) -> bool:
        line = record.getMessage()
        if line in said:
            return False
        said.add(line)
        return True

    logger.addFilter(is_new)
    try:
        yield
    finally:
        logger.removeFilter(is_new)
