"""Tensors that a node keeps from one of its rounds to the next, in Flower's ``Context.state``."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from flwr.app import ArrayRecord, RecordDict
from torch import Tensor

from atoll.clients.arrays.tensors import tensor_of
from atoll.flower.arrays import array_record, to_array

PREFIX = "atoll."


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
        record = self._state.array_records.get(self._key)
        if record is None:
            return {}
        return {key: tensor_of(array).to(device) for key, array in record.items()}

    def write(self, tensors: Mapping[str, Tensor]) -> None:
        """Replace the tensors; none at all removes the record."""
        if not tensors:
            self._state.pop(self._key, None)
            return
        self._state[self._key] = record_of(tensors)


def record_of(tensors: Mapping[str, Tensor]) -> ArrayRecord:
    """Return named tensors as Flower arrays, which later changes of the tensors do not change."""
    return array_record(
        {key: to_array(value.detach().cpu().numpy()) for key, value in tensors.items()}
    )
