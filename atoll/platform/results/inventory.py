"""What is in a folder: runs, sweeps and arenas, a line each."""

from __future__ import annotations

import fnmatch
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from atoll.clients.tasks.directions import direction_of
from atoll.error_messages import short
from atoll.errors import AtollError, InvalidExperimentError, RunDirectoryError
from atoll.files.manifests import read_verified
from atoll.files.reading import parse_toml
from atoll.platform.callbacks.metric_names import main_metric
from atoll.platform.config.experiment import parse_value
from atoll.platform.reports.tables import Cell, Table
from atoll.platform.results.labels import flattened
from atoll.platform.results.recorded import (
    ARENA_FILE,
    RESULTS_OF_AN_ARENA,
    SWEEP_FILE,
    kind_of,
)
from atoll.platform.run_directory.run_files import (
    APP_TABLE,
    CONFIG,
    RESULT,
    ROUND_ONLY,
    ROUNDS,
    read_config,
    read_result,
    read_rounds,
)
from atoll.platform.run_directory.run_lock import is_in_use
from atoll.platform.sweeps.trial_rows import FAILED, TABLE, TRIALS, WAITING, read_trials

# How deep folders are looked into.
DEPTH = 4
FAILURES = "failed.json"
FINISHED, RUNNING, INTERRUPTED, UNREADABLE = "finished", "running", "interrupted", "unreadable"
STATES = (FINISHED, RUNNING, INTERRUPTED, FAILED, UNREADABLE)


@dataclass(frozen=True)
class Entry:
    """A run, a sweep or an arena.

    Attributes
    ----------
    name : str
        Its folder, from where was looked.
    kind : str
        "run", "app" (a Flower app's run), "sweep" or "arena".
    tags : list[str]
        ``run.tags``.
    date : str
        When it was last written to, as ISO 8601.
    state : str
        One of :data:`STATES`.
    method, data : str
        The strategy, or the methods of a sweep; the data set and the number of clients.
    done, of : int or None
        Rounds; of a sweep, trials.
    metric : str or None
        What ``value`` is of; None where there is none.
    value : float or None
        The last value of the metric; of a sweep the best of its trials' last ones.
    problem : str
        Why it cannot be read.
    config : dict
        Dotted keys and values, for filters.
    """

    name: str
    kind: str
    tags: list[str]
    date: str
    state: str
    method: str = ""
    data: str = ""
    done: int | None = None
    of: int | None = None
    metric: str | None = None
    value: float | None = None
    problem: str = ""
    config: dict[str, Any] = field(default_factory=dict, repr=False)

    def to_json(self) -> dict[str, Any]:
        """Return it as JSON can hold it."""
        tables = asdict(self)
        value = tables["value"]
        if value is not None and not math.isfinite(value):
            tables["value"] = None
        return tables


def smaller_is_better(metric: str) -> bool:
    """Tell whether a metric is better when smaller: a task's, or by what its name says."""
    known = direction_of(metric)
    if known is not None:
        return known == "lower"
    return any(word in metric for word in ("loss", "error", "penalty", "mse", "lpips", "seconds"))


def list_entries(folder: Path, metric: str | None = None) -> list[Entry]:
    """Return what is in a folder, by name; what cannot be read is listed as such.

    Of each it has the last value of the metric, by default of each one's main metric.

    Raises
    ------
    RunDirectoryError
        If there is no such folder.
    """
    if not folder.is_dir():
        what = "is a file" if folder.exists() else "no such folder"
        raise RunDirectoryError(f"{folder}: {what}; expected a folder with runs")
    return [_entry(place, folder, metric) for place in _places(folder, DEPTH)]


def _places(folder: Path, depth: int) -> Iterator[Path]:
    if kind_of(folder) is not None:
        yield folder
    elif depth > 0:
        try:
            inner = sorted(path for path in folder.iterdir() if path.is_dir())
        except PermissionError:
            return
        for path in inner:
            if not path.name.startswith("."):
                yield from _places(path, depth - 1)


def _entry(place: Path, folder: Path, metric: str | None) -> Entry:
    kind = kind_of(place) or "run"
    inside = place.relative_to(folder)
    name = str(inside) if inside.parts else place.resolve().name
    named = {"run": _run, "sweep": _sweep, "arena": _arena}
    entry = Entry(name, kind, [], _date(place), UNREADABLE, metric=metric)
    try:
        return Entry(**{**vars(entry), **named[kind](place, metric)})
    except (AtollError, OSError) as error:
        return Entry(**{**vars(entry), "problem": str(error).splitlines()[0]})


def _date(place: Path) -> str:
    names = (RESULT, ROUNDS, CONFIG, TABLE, SWEEP_FILE, RESULTS_OF_AN_ARENA, ARENA_FILE)
    times = [path.stat().st_mtime for name in names if (path := place / name).is_file()]
    return (
        datetime.fromtimestamp(max(times, default=0.0)).astimezone().isoformat(timespec="seconds")
    )


def _run(place: Path, metric: str | None) -> dict[str, Any]:
    tables = read_config(place)
    result, rounds = read_result(place), read_rounds(place, ROUND_ONLY)
    values: list[Any] = []
    metric = metric or main_metric(rounds.column_names)
    if metric in rounds.column_names:
        values = [v for v in rounds.column(metric).to_pylist() if isinstance(v, int | float)]
    is_over = result is not None
    about = {
        **_about(tables),
        "state": FINISHED if is_over else RUNNING if is_in_use(place) else INTERRUPTED,
        "done": len(rounds),
        "of": _table(tables, "run").get("rounds"),
        "metric": metric,
        "value": values[-1] if values else None,
    }
    if APP_TABLE in tables:
        app = _table(tables, APP_TABLE)
        about |= {"kind": "app", "method": Path(str(app.get("app_dir", "?"))).name, "data": ""}
        about["of"] = about["done"] if is_over else None
    return about


def _sweep(place: Path, metric: str | None) -> dict[str, Any]:
    tables = _tables(place / SWEEP_FILE)
    rows = read_trials(place) if (place / TABLE).is_file() else []
    ended = [row for row in rows if row["status"] not in (WAITING, FAILED)]
    values = []
    for row in ended:
        inner = place / TRIALS / Path(row["directory"]).name
        trial = _run(inner, metric)
        metric = trial["metric"]
        values += [v for v in [trial["value"]] if v is not None]
    best = min if metric is not None and smaller_is_better(metric) else max
    is_over = bool(rows) and len(ended) == len(rows)
    state = FINISHED if is_over else RUNNING if is_in_use(place) else INTERRUPTED
    if state == INTERRUPTED and any(row["status"] == FAILED for row in rows):
        state = FAILED
    methods = list(dict.fromkeys(str(row["method"]) for row in rows))
    return {
        **_about(tables),
        "state": state,
        "method": ", ".join(methods),
        "done": len(ended),
        "of": len(rows),
        "metric": metric,
        "value": best(values) if values else None,
    }


def _arena(place: Path, metric: str | None) -> dict[str, Any]:
    tables = _tables(place / ARENA_FILE)
    settings = _table(tables, "arena")
    is_over = (place / RESULTS_OF_AN_ARENA).is_file()
    state = FINISHED if is_over else RUNNING if is_in_use(place) else INTERRUPTED
    if is_over and read_verified(place / FAILURES).strip() != b"{}":
        state = FAILED
    attacks, defenses = (", ".join(_table(settings, name)) for name in ("attacks", "defenses"))
    return {**_about(tables), "state": state, "method": f"{attacks} against {defenses}"}


def _about(tables: Mapping[str, Any]) -> dict[str, Any]:
    """Return what is said of all that have an experiment's tables."""
    run, data = _table(tables, "run"), _table(tables, "data")
    held_out = data.get("held_out") or []
    parts = [str(data.get("dataset", "?")), f"{data.get('clients', '?')} clients"]
    if isinstance(held_out, list) and held_out:
        parts.append(f"without {'+'.join(map(str, held_out))}")
    tags = run.get("tags", [])
    return {
        "tags": [str(tag) for tag in tags] if isinstance(tags, list) else [],
        "method": str(_table(tables, "strategy").get("name", "")),
        "data": ", ".join(parts),
        "config": dict(flattened(tables)),
    }


def _tables(path: Path) -> dict[str, Any]:
    return parse_toml(read_verified(path), path)


def _table(tables: Mapping[str, Any], name: str) -> dict[str, Any]:
    found = tables.get(name, {})
    return found if isinstance(found, dict) else {}


# --- choosing and ordering -----------------------------------------------------------------------


@dataclass(frozen=True)
class Filter:
    """Which entries are shown: those that everything that is set holds for.

    Attributes
    ----------
    name : str or None
        A pattern of the name, with ``*`` and ``?``.
    tags : Sequence[str]
        Tags that it has.
    states, kinds : Sequence[str]
        One of which it is of.
    where : Sequence[str]
        ``section.key=value`` of its configuration.
    """

    name: str | None = None
    tags: Sequence[str] = ()
    states: Sequence[str] = ()
    kinds: Sequence[str] = ()
    where: Sequence[str] = ()

    def __call__(self, entry: Entry) -> bool:
        """Tell whether an entry is shown."""
        return (
            (self.name is None or fnmatch.fnmatchcase(entry.name, self.name))
            and set(self.tags) <= set(entry.tags)
            and (not self.states or entry.state in self.states)
            and (not self.kinds or entry.kind in self.kinds)
            and all(_holds(entry.config, condition) for condition in self.where)
        )


def _holds(config: Mapping[str, Any], condition: str) -> bool:
    key, separator, text = condition.partition("=")
    if not separator or not key.strip():
        raise InvalidExperimentError(
            f"--where {condition!r}: expected section.key=value, strategy.name=FedAvg say"
        )
    found = config.get(key.strip())
    return found == parse_value(text.strip()) or str(found) == text.strip()


def _by_metric(entry: Entry) -> tuple[bool, float]:
    """Return what puts the best first, and what has no value last."""
    if entry.value is None or entry.metric is None or math.isnan(entry.value):
        return True, 0.0
    return False, entry.value if smaller_is_better(entry.metric) else -entry.value


ORDERS: dict[str, Callable[[Entry], Any]] = {
    "date": lambda entry: tuple(-ord(character) for character in entry.date),
    "name": lambda entry: entry.name,
    "metric": _by_metric,
    "method": lambda entry: entry.method,
    "data": lambda entry: entry.data,
    "state": lambda entry: STATES.index(entry.state),
    "rounds": lambda entry: -(entry.done or 0),
}


def order_of(name: str) -> Callable[[Entry], Any]:
    """Return what entries are sorted by.

    Raises
    ------
    InvalidExperimentError
        If there is no such order.
    """
    if name not in ORDERS:
        raise InvalidExperimentError(f"--sort {name}: expected {', '.join(ORDERS)}")
    return ORDERS[name]


def table_of_entries(entries: Sequence[Entry], folder: Path) -> Table:
    """Return entries as a table; the last column is of the metric that all have, or of each one's.

    A metric that not all have is named beside its value.
    """
    metrics = {entry.metric for entry in entries if entry.value is not None}
    last = metrics.pop() if len(metrics) == 1 else None
    header = ["name", "kind", "tags", "date", "state", "method", "data", "rounds"]
    header += [str(last)] if last is not None else ["metric", "value"]
    rows = [_row(entry, with_metric=last is None) for entry in entries]
    return Table(str(folder), header, rows)


def _row(entry: Entry, *, with_metric: bool) -> list[Cell]:
    done = "-" if entry.done is None else str(entry.done)
    rounds = done if entry.of in (None, entry.done) else f"{done}/{entry.of}"
    unit = " trials" if entry.kind == "sweep" else ""
    value = None if entry.value is None else round(float(entry.value), 4)
    state = entry.state
    day = entry.date[:16].replace("T", " ")
    return [
        entry.name,
        entry.kind,
        " ".join(entry.tags),
        day,
        state,
        short(entry.method, quoted=False),
        entry.data,
        f"{rounds}{unit}",
        *([entry.metric or "-"] if with_metric else []),
        value,
    ]
