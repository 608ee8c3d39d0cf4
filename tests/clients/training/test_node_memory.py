"""Tensors that a node keeps: what is written is read back, however it lies in the state."""

from __future__ import annotations

import pytest
import torch
from flwr.app import RecordDict
from torch import Tensor

from atoll.clients.training.objective.node_memory import NodeMemory, record_of
from atoll.flower import dump_records, load_records

ODD_NAMES = {name: torch.tensor([float(i)]) for i, name in enumerate(("", "a/b", 'ü"', "[1]"))}


def written(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return what is read after a way through a node's serialised state."""
    state = RecordDict()
    NodeMemory(state, "term").write(tensors)
    return NodeMemory(load_records(dump_records(state)), "term").read()


@pytest.mark.parametrize(
    "tensors",
    [
        {"one": torch.arange(3.0)},
        {"w": torch.randn(2, 3, 1), "scalar": torch.tensor(2.0), "b": torch.randn(4)},
        {"w": torch.randn(2), "empty": torch.zeros(2, 0, 3), "b": torch.randn(1)},
        {"w": torch.randn(2), "count": torch.tensor([3, 4]), "on": torch.tensor([True])},
        {"double": torch.randn(2, dtype=torch.float64), "b": torch.randn(1, dtype=torch.float64)},
        {"turned": torch.arange(6.0).reshape(2, 3).T, "b": torch.ones(1)},
        ODD_NAMES,
    ],
    ids=["one", "floats", "empty", "dtypes", "doubles", "strided", "names"],
)
def test_tensors_come_back_as_they_were(tensors: dict[str, Tensor]) -> None:
    read = written(tensors)
    assert list(read) == list(tensors)
    for name, tensor in tensors.items():
        assert read[name].dtype == tensor.dtype
        assert torch.equal(read[name], tensor)
        assert read[name].shape == tensor.shape


def test_what_is_read_may_be_changed() -> None:
    state = RecordDict()
    memory, kept = NodeMemory(state, "term"), {"a": torch.ones(2), "b": torch.ones(3)}
    memory.write(kept)
    kept["a"].zero_()
    read = memory.read()
    read["a"].add_(1.0)
    assert read["b"].tolist() == [1.0, 1.0, 1.0]
    assert memory.read()["a"].tolist() == [1.0, 1.0]


def test_parameters_that_are_trained_are_kept_without_their_graph() -> None:
    layer = torch.nn.Linear(2, 1)
    assert torch.equal(written(dict(layer.named_parameters()))["weight"], layer.weight)


def test_states_of_earlier_versions_are_read() -> None:
    """Each tensor was an array of its own."""
    state = RecordDict({"atoll.term": record_of({"a": torch.ones(2), "b": torch.zeros(1)})})
    assert {k: v.tolist() for k, v in NodeMemory(state, "term").read().items()} == {
        "a": [1.0, 1.0],
        "b": [0.0],
    }


def test_writing_nothing_removes_the_record() -> None:
    state = RecordDict()
    NodeMemory(state, "term").write({"a": torch.ones(2)})
    NodeMemory(state, "term").write({})
    assert not state
