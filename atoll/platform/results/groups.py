"""Groups of runs that differ in their seed alone, and their curves with bands over the seeds."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from atoll.error_messages import closest
from atoll.errors import InvalidExperimentError
from atoll.platform.reports.tables import Estimate
from atoll.platform.results.labels import differing, distinct, value_of
from atoll.platform.results.recorded import DataKey, Recorded
from atoll.platform.results.student import t_factor

CONFIDENCE = 0.95
Band = Literal["interval", "range", "none"]


@dataclass(frozen=True)
class Group:
    """Runs of one configuration on the same data, a run a seed.

    Attributes
    ----------
    label : str
        What it is called beside the others.
    runs : tuple[Recorded, ...]
        By seed.
    """

    label: str
    runs: tuple[Recorded, ...]

    @property
    def config(self) -> Mapping[str, Any]:
        """The configuration that all have."""
        return self.runs[0].config

    @property
    def data(self) -> DataKey:
        """What the figures of all are of."""
        return self.runs[0].data


@dataclass(frozen=True)
class Series:
    """A metric over the rounds: its mean over a group's runs, and a band around it.

    Attributes
    ----------
    label : str
        The group's.
    rounds : NDArray[int64]
        The rounds in which every run has a value.
    mean, low, high : NDArray[float64]
        The mean, and the band's ends; the ends are the mean where there is no band.
    runs : int
        How many runs it is over.
    """

    label: str
    rounds: NDArray[np.int64]
    mean: NDArray[np.float64]
    low: NDArray[np.float64]
    high: NDArray[np.float64]
    runs: int


def grouped(runs: Sequence[Recorded]) -> list[Group]:
    """Return runs in groups that differ in the seed alone, in the order of their first runs.

    Runs on different data, or with other domains held out, are never of one group.
    """
    found: dict[tuple[str, DataKey, str], list[Recorded]] = {}
    for run in runs:
        config = json.dumps(run.config, sort_keys=True, default=str)
        found.setdefault((run.method, run.data, config), []).append(run)
    # The same run given twice is one run.
    members = [
        tuple(sorted({r.directory.resolve(): r for r in own}.values(), key=lambda r: r.seed))
        for own in found.values()
    ]
    return [Group(label, own) for label, own in zip(_labels(members), members, strict=True)]


def _labels(members: Sequence[Sequence[Recorded]]) -> list[str]:
    methods = [own[0].method for own in members]
    if all(methods):
        return _trial_labels([own[0] for own in members])
    if all(len(own) == 1 for own in members):
        return distinct([own[0].name for own in members])
    configs = [own[0].config for own in members]
    keys = differing(configs)
    if not keys or len(keys) > 3:
        return distinct([own[0].name for own in members])
    named = [", ".join(f"{key} = {value_of(c, key)}" for key in keys) for c in configs]
    return distinct(named)


def _trial_labels(firsts: Sequence[Recorded]) -> list[str]:
    """Return the methods' names, with the hyper-parameters of those that have several."""
    chosen = [json.loads(run.hyperparameters) for run in firsts]
    labels = []
    for run in firsts:
        own = [c for c, other in zip(chosen, firsts, strict=True) if other.method == run.method]
        keys = differing(own)
        mine = json.loads(run.hyperparameters)
        labels.append(", ".join([run.method, *(f"{k} = {value_of(mine, k)}" for k in keys)]))
    # Groups with other domains held out are in other figures, under the same names.
    return labels


def by_data(groups: Sequence[Group]) -> dict[DataKey, list[Group]]:
    """Return groups by what their figures are of."""
    found: dict[DataKey, list[Group]] = {}
    for group in groups:
        found.setdefault(group.data, []).append(group)
    return found


def metrics_in(runs: Sequence[Recorded]) -> list[str]:
    """Return the metrics with a number a round that some run has."""
    names = (
        field.name
        for run in runs
        for field in run.rounds.schema
        if not pa.types.is_list(field.type) and field.name != "round"
    )
    return list(dict.fromkeys(names))


def check_metric(runs: Sequence[Recorded], metric: str, option: str = "--metric") -> None:
    """Refuse a metric that no run has.

    Raises
    ------
    InvalidExperimentError
        With what is nearest.
    """
    known = metrics_in(runs)
    if metric not in known:
        raise InvalidExperimentError(
            f"{option} {metric}: no round of {runs[0].directory}"
            f"{' or the others' if len(runs) > 1 else ''} has such a metric; "
            f"{closest(metric, known)}"
        )


def values_of(run: Recorded, metric: str) -> dict[int, float]:
    """Return a run's values of a metric by round; rounds without one are left out."""
    if metric not in run.rounds.column_names:
        return {}
    numbers, values = (run.rounds.column(name).to_pylist() for name in ("round", metric))
    pairs = zip(numbers, values, strict=True)
    return {r: float(v) for r, v in pairs if v is not None and math.isfinite(v)}


def series_of(group: Group, metric: str, band: Band = "range") -> Series | None:
    """Return a metric's curve over a group's runs; None where they share no round with a value.

    Parameters
    ----------
    group : Group
        The runs.
    metric : str
        A column of ``rounds.parquet``.
    band : "interval", "range" or "none"
        The t interval of the mean at 95 %, from the least to the largest, or nothing.
    """
    curves = [values_of(run, metric) for run in group.runs]
    shared = sorted(set.intersection(*(set(curve) for curve in curves)))
    if not shared:
        return None
    values = np.array([[curve[r] for r in shared] for curve in curves])
    mean = values.mean(0)
    low, high = mean, mean
    if band == "range":
        low, high = values.min(0), values.max(0)
    elif band == "interval" and len(values) > 1:
        width = _half_width(values.std(0, ddof=1), len(values))
        low, high = mean - width, mean + width
    return Series(group.label, np.array(shared), mean, low, high, len(values))


def final_estimate(group: Group, metric: str, digits: int = 4) -> Estimate | None:
    """Return the mean of the runs' last values of a metric, with its t interval over the seeds.

    None if a run has no value. A single run has no interval.
    """
    curves = [values_of(run, metric) for run in group.runs]
    if not all(curves):
        return None
    last = np.array([curve[max(curve)] for curve in curves])
    mean, count = float(last.mean()), len(last)
    if count < 2:
        return Estimate(mean, count, digits=digits, of="seed")
    width = float(_half_width(last.std(ddof=1), count))
    return Estimate(mean, count, low=mean - width, high=mean + width, digits=digits, of="seed")


def _half_width(deviation: Any, count: int) -> Any:
    """Return half of Student's interval of a mean over ``count`` values."""
    return t_factor(CONFIDENCE, count - 1) * deviation / math.sqrt(count)
