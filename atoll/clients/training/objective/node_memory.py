"""Tensors that a node keeps from one of its rounds to the next, in Flower's ``Context.state``."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from functools import lru_cache

import torch
from flwr.app import ArrayRecord, RecordDict
from torch import Tensor

from atoll.clients.arrays.tensors import tensors_of
from atoll.flower.arrays import array_record, to_array

PREFIX = "atoll."
# Before the names and shapes of tensors that are kept as one.
_PACKED = "packed:"


class NodeMemory:
    """One record of a node's state: named tensors, empty before the first :meth:`write`.

    The engine checkpoints ``Context.state`` and restores it to the same bits; stock Flower keeps
    it as long as the node is there.

    Parameters
    ----------
    state : RecordDict
        ``Context.state``; changed by :meth:`write`.
    name : str
        Whose tensors these are: each name has a record of its own.

    Examples
    --------
    >>> import torch
    >>> from flwr.app import RecordDict
    >>> state = RecordDict()
    >>> NodeMemory(state, "scaffold").write({"control": torch.ones(2)})
    >>> NodeMemory(state, "scaffold").read(), NodeMemory(state, "elr").read()
    ({'control': tensor([1., 1.])}, {})
    """

    def __init__(self, state: RecordDict, name: str) -> None:
        self._state = state
        self._key = f"{PREFIX}{name}"

    def read(self, device: torch.device | str = "cpu") -> dict[str, Tensor]:
        """Return the tensors, as copies on ``device``."""
        record = self._state.get(self._key)
        if not isinstance(record, ArrayRecord):
            return {}
        found: dict[str, Tensor] = {}
        for key, tensor in tensors_of(record).items():
            # What it is made from is on the CPU.
            here = tensor if torch.device(device).type == "cpu" else tensor.to(device)
            if not key.startswith(_PACKED):
                found[key] = here
                continue
            names, shapes, sizes = _layout(key)
            for name, shape, values in zip(names, shapes, torch.split(here, sizes), strict=True):
                found[name] = values.view(shape)
        return found

    def write(self, tensors: Mapping[str, Tensor]) -> None:
        """Replace the tensors; none at all removes the record."""
        if not tensors:
            self._state.pop(self._key, None)
            return
        self._state[self._key] = record_of(_packed(tensors))


def _packed(tensors: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    """Return tensors of one dtype as one, whose name says what it holds: each costs as much."""
    values = list(tensors.values())
    dtype = values[0].dtype
    if len(values) == 1 or not all(v.dtype == dtype and v.numel() for v in values):
        return tensors
    held = [(name, tuple(value.shape)) for name, value in tensors.items()]
    return {f"{_PACKED}{json.dumps(held)}": torch.cat([v.reshape(-1) for v in values])}


@lru_cache(maxsize=64)
def _layout(key: str) -> tuple[list[str], list[tuple[int, ...]], list[int]]:
    """Return the names, the shapes and the sizes of what is packed."""
    held = json.loads(key.removeprefix(_PACKED))
    shapes: list[tuple[int, ...]] = [tuple(shape) for _, shape in held]
    return [name for name, _ in held], shapes, [math.prod(shape) for shape in shapes]


def record_of(tensors: Mapping[str, Tensor]) -> ArrayRecord:
    """Return named tensors as Flower arrays, which later changes of the tensors do not change."""
    return array_record({key: to_array(value.numpy(force=True)) for key, value in tensors.items()})
