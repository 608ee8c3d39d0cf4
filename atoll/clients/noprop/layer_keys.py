"""Keys of a network's arrays by layer: blocks, and the shared part."""

from __future__ import annotations

from collections.abc import Iterable

SHARED = "shared"
BLOCKS = "blocks"


def block_prefix(index: int) -> str:
    """Return the prefix of the keys of a block's arrays, in a network's ``state_dict()``."""
    return f"{BLOCKS}.{index}."


def shared_prefix() -> str:
    """Return the prefix of the keys of the shared part's arrays."""
    return f"{SHARED}."


def layer_of(key: str) -> int | None:
    """Return the block, from 0, that an array belongs to; None for the shared part.

    Raises
    ------
    ValueError
        If the key is not one of a network's.
    """
    first, _, rest = key.partition(".")
    if first == SHARED:
        return None
    number = rest.partition(".")[0]
    if first != BLOCKS or not number.isdigit():
        raise ValueError(f"array {key!r}: is of no layer; expected {BLOCKS}.<number>. or {SHARED}.")
    return int(number)


def keys_by_layer(keys: Iterable[str]) -> dict[int | None, list[str]]:
    """Return the keys of each block, and under None those of the shared part."""
    found: dict[int | None, list[str]] = {}
    for key in keys:
        found.setdefault(layer_of(key), []).append(key)
    return found
