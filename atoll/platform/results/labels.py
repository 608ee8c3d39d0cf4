"""What runs are called beside each other: by what differs among them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from atoll.error_messages import short

ABSENT = "-"


def flattened(tables: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the dotted keys of tables with their values; an empty table is a value."""
    for name, value in tables.items():
        if isinstance(value, Mapping) and value:
            yield from flattened(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def differing(configs: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the keys whose values are not the same in all configurations."""
    keys = dict.fromkeys(key for config in configs for key in config)
    absent = object()
    return [
        key
        for key in keys
        if any(config.get(key, absent) != configs[0].get(key, absent) for config in configs)
    ]


def value_of(config: Mapping[str, Any], key: str) -> str:
    """Return a value as a cell of a table."""
    if key not in config:
        return ABSENT
    value = config[key]
    return short(value, quoted=not isinstance(value, str))


def distinct(names: Sequence[str]) -> list[str]:
    """Return names, those that are there twice with a number."""
    seen: dict[str, int] = {}
    found = []
    for name in names:
        seen[name] = seen.get(name, 0) + 1
        found.append(name if names.count(name) == 1 else f"{name} ({seen[name]})")
    return found
