"""Partitions by a user's own function, as an experiment names it."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from atoll.clients import DataSettings, PartitionSettings, load_dataset, partition_dataset
from atoll.errors import EngineError, InvalidExperimentError

MODULE = """
import numpy as np
from flwr_datasets.partitioner import IidPartitioner

def by_label(labels, clients):
    return labels % clients

def some(labels, clients, seed, share=0.5):
    order = np.random.default_rng(seed).permutation(len(labels))
    return np.array_split(order[: int(share * len(labels))], clients)

def everything(labels, clients):
    return [np.arange(len(labels))] * clients

def nothing(labels, clients):
    return None

def too_few(clients):
    return [[0]] * (clients - 1)

def beyond(labels, clients):
    return [[len(labels)]] * clients

def floats(clients):
    return [[0.5]] * clients

def short(labels):
    return labels[1:]

def raising(labels, missing_domain_argument=1):
    return labels / "x"

def needs(labels, clients, width):
    return labels % clients

class Mine(IidPartitioner):
    pass

NUMBER = 3
"""


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    monkeypatch.setenv("ATOLL_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    name = f"dealing_{tmp_path.name.replace('-', '_')}"
    Path(f"{name}.py").write_text(MODULE)
    yield name
    if str(tmp_path) in sys.path:
        sys.path.remove(str(tmp_path))


def dealt(name: str, clients: int = 5, seed: int = 0, **arguments: Any) -> Any:
    settings = DataSettings(
        dataset="digits", clients=clients, partition=PartitionSettings(name=name, **arguments)
    )
    return partition_dataset(load_dataset("digits"), settings, seed)


def test_an_array_of_clients_deals_each_example_to_one(module: str) -> None:
    labels = load_dataset("digits").train.labels
    partition = dealt(f"{module}:by_label")
    assert int(partition.sizes.sum()) == len(labels)
    for client in range(5):
        assert set(labels[partition.indices(client)] % 5) == {client}


def test_a_list_of_places_may_leave_examples_out_and_share_them(module: str) -> None:
    examples = len(load_dataset("digits").train.labels)
    half = dealt(f"{module}:some")
    assert int(half.sizes.sum()) == examples // 2
    third = dealt(f"{module}:some", share=0.25)
    assert int(third.sizes.sum()) == examples // 4
    assert dealt(f"{module}:everything").sizes.tolist() == [examples] * 5
    # The seed is the run's.
    assert not np.array_equal(half.indices(0), dealt(f"{module}:some", seed=1).indices(0))
    np.testing.assert_array_equal(half.indices(0), dealt(f"{module}:some").indices(0))


def test_a_class_is_a_partitioner_as_before(module: str) -> None:
    assert dealt(f"{module}:Mine").sizes.tolist() == [288, 288, 287, 287, 287]


def test_the_cache_notices_other_code(module: str) -> None:
    before = dealt(f"{module}:by_label")
    assert dealt(f"{module}:by_label").directory == before.directory
    path = Path(f"{module}.py")
    path.write_text(path.read_text().replace("labels % clients", "(labels + 1) % clients"))
    sys.modules.pop(module)
    importlib.invalidate_caches()
    after = dealt(f"{module}:by_label")
    labels = load_dataset("digits").train.labels
    assert set((labels[after.indices(0)] + 1) % 5) == {0}


@pytest.mark.parametrize(
    ("name", "arguments", "answer"),
    [
        ("nothing", {}, "returned a NoneType; expected a list with one array of places"),
        ("too_few", {}, "the examples of 4 clients; expected data.clients = 5"),
        ("beyond", {}, "examples from 1437 to 1437; expected 0 to 1436"),
        ("floats", {}, "examples of dtype float64"),
        ("short", {}, "clients of 1436 examples, and there are 1437"),
        ("some", {"shar": 1}, "has no such argument; did you mean 'share'?"),
        ("some", {"labels": 1}, "has no such argument"),
        ("needs", {}, "data.partition.width is not set"),
        ("NUMBER", {}, "is a int, expected a function or a Partitioner"),
    ],
)
def test_what_is_wrong_is_one_line(
    name: str, arguments: dict[str, Any], answer: str, module: str
) -> None:
    with pytest.raises(InvalidExperimentError) as error:
        dealt(f"{module}:{name}", **arguments)
    assert answer in str(error.value)
    assert "\n" not in str(error.value)


def test_an_error_in_it_names_its_place(module: str) -> None:
    with pytest.raises(EngineError, match=rf"{module}.py:\d+: return labels / "):
        dealt(f"{module}:raising")
