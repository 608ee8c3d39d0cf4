"""The head of a run's report: data, model, method, seed and versions, in words."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from atoll.lazy import LazyModule
from atoll.platform.callbacks.metric_names import DELTA_SPENT, EPSILON_SPENT
from atoll.platform.run_directory.run_files import Engine

dp_sgd = LazyModule("atoll.attacks.defenses.dp_sgd")
local_dp = LazyModule("atoll.attacks.defenses.local_dp")

# Keys that say how a run is carried out, and nothing of what is run.
UNSAID = {
    "strategy": ("reduce", "check_replies"),
    "client": ("vectorize", "memory_mb", "mods", "schedule"),
    "model": (),
    "data": ("dataset", "clients", "held_out", "partition", "options", "path"),
}
LONGEST = 300


def facts(
    config: Mapping[str, Any], engine: Engine | None, rounds: pa.Table, clients: pa.Table
) -> list[tuple[str, str]]:
    """Return what a run is, as pairs of a name and a text.

    Parameters
    ----------
    config : Mapping
        ``config.toml``; nothing is taken for granted of what is in it.
    engine : Engine or None
        ``engine.json``, which knows the number of parameters.
    rounds, clients : Table
        ``rounds.parquet`` and ``clients.parquet``, for the privacy that was spent.
    """
    found = [
        ("data", _data(config)),
        ("model", _model(config, engine)),
        ("method", _named(config, "strategy")),
        ("clients", _client(config)),
        ("defenses and other mods", _mods(config)),
        ("privacy", ", ".join(_pairs(privacy_of(config), " = "))),
        ("privacy spent", _central(rounds) or _of_clients(config, clients)),
        ("seed", _text(_table(config, "run").get("seed", ""))),
        ("versions", ", ".join(_pairs(_table(config, "versions"), " "))),
    ]
    if "flower" in config:
        found.insert(0, ("Flower app", ", ".join(_pairs(_table(config, "flower"), " = "))))
    return [(name, text[:LONGEST]) for name, text in found if text]


def _data(config: Mapping[str, Any]) -> str:
    data = _table(config, "data")
    if not data.get("dataset"):
        return ""
    parts = [_text(data["dataset"])]
    if data.get("options"):
        parts[0] += f" ({', '.join(_pairs(_table(data, 'options'), ' = '))})"
    if "clients" in data:
        parts.append(f"{_text(data['clients'])} clients")
    partition = _table(data, "partition")
    if partition:
        parts.append(f"partition {_with_settings(partition)}")
    if data.get("held_out"):
        parts.append(f"held out: {_text(data['held_out'])}")
    return ", ".join([*parts, *_others(data, "data")])


def _model(config: Mapping[str, Any], engine: Engine | None) -> str:
    named = _named(config, "model")
    return f"{named}; {engine.parameters:,} parameters" if named and engine else named


def _named(config: Mapping[str, Any], section: str) -> str:
    table = _table(config, section)
    kept = {key: value for key, value in table.items() if key not in UNSAID[section]}
    return _with_settings(kept) if kept.get("name") else ""


def _client(config: Mapping[str, Any]) -> str:
    client = _table(config, "client")
    parts = list(_others(client, "client"))
    schedule = _table(client, "schedule")
    if schedule.get("name", "constant") != "constant":
        parts.append(f"schedule {_with_settings(schedule)}")
    return ", ".join(parts)


def _mods(config: Mapping[str, Any]) -> str:
    mods = _table(config, "client").get("mods")
    if not isinstance(mods, list):
        return ""
    return "; ".join(_with_settings(mod) if isinstance(mod, dict) else _text(mod) for mod in mods)


def privacy_of(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return a run's ``[privacy]``; empty without one."""
    return _table(config, "privacy")


def _central(rounds: pa.Table) -> str:
    """Return what the server's noise has spent."""
    if EPSILON_SPENT not in rounds.column_names or not len(rounds):
        return ""
    last = rounds.slice(len(rounds) - 1).to_pylist()[0]
    return f"epsilon = {_text(last[EPSILON_SPENT])} at delta = {_text(last.get(DELTA_SPENT))}"


def _of_clients(config: Mapping[str, Any], clients: pa.Table) -> str:
    epsilon = pc.max(clients.column("epsilon")).as_py()
    if epsilon is None:
        return ""
    found = {delta for _, delta in deltas_of(_table(config, "client").get("mods"))}
    of_budget = privacy_of(config).get("delta")
    deltas = sorted({*found, *([of_budget] if isinstance(of_budget, float) else [])})
    at = f" at delta = {', '.join(f'{delta:g}' for delta in deltas)}" if deltas else ""
    return f"epsilon = {epsilon:.4g}{at}, the largest of any client so far"


def deltas_of(mods: Any) -> Iterator[tuple[str, float]]:
    """Yield the mods that account for the privacy they spend, with the delta that it is at."""
    for mod in mods if isinstance(mods, list) else ():
        settings = mod if isinstance(mod, Mapping) else {"name": mod}
        name, delta = settings.get("name"), settings.get("delta")
        if name == "dp-sgd":
            delta = dp_sgd.DPSGD.model_fields["delta"].default if delta is None else delta
        elif name == "local-dp":
            delta = local_dp.LocalDP.model_fields["delta"].default if delta is None else delta
        if name in ("dp-sgd", "local-dp") and isinstance(delta, float):
            yield str(name), delta


def _others(table: Mapping[str, Any], section: str) -> Iterator[str]:
    kept = {key: value for key, value in table.items() if key not in UNSAID[section]}
    return _pairs({key: value for key, value in kept.items() if value not in (0.0, [], {})}, " = ")


def _with_settings(table: Mapping[str, Any]) -> str:
    """Return a table's name, with its other keys in parentheses."""
    own = ", ".join(_pairs({k: v for k, v in table.items() if k != "name"}, " = "))
    name = _text(table.get("name", "?"))
    return f"{name} ({own})" if own else name


def _pairs(table: Mapping[str, Any], between: str) -> Iterator[str]:
    return (f"{key}{between}{_text(value)}" for key, value in table.items())


def _table(config: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    found = config.get(name)
    return found if isinstance(found, Mapping) else {}


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list):
        return ", ".join(map(_text, value)) if value else "none"
    if isinstance(value, Mapping):
        return _with_settings(value) if "name" in value else "; ".join(_pairs(value, " = "))
    return f"{value:g}" if isinstance(value, float) else str(value)
