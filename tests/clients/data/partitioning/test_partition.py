"""Partitions: every example with one client, by flwr-datasets' own partitioners."""

from __future__ import annotations

import inspect
import pickle
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest
from datasets import Dataset
from flwr_datasets.partitioner import IidPartitioner
from hypothesis import example, given, settings
from hypothesis import strategies as st

from atoll.clients.data import class_histogram, load_dataset, partition_dataset
from atoll.clients.data.files.dataset import Split
from atoll.clients.data.partitioning.partition import deal
from atoll.clients.data.partitioning.partitioners import ARGUMENTS, GIVEN, PARTITIONERS
from atoll.clients.settings import DataSettings, PartitionSettings
from atoll.clients.tasks.classification import Classification
from atoll.errors import InvalidExperimentError


def dealt(clients: int = 10, seed: int = 3, dataset: str = "digits", **arguments: object):
    name = arguments.pop("name", "iid")
    more = {
        k: arguments.pop(k) for k in ("train_examples", "examples_per_client") if k in arguments
    }
    settings = DataSettings(
        dataset=dataset,
        clients=clients,
        partition=PartitionSettings(name=name, **arguments),
        **more,
    )
    return partition_dataset(load_dataset(dataset), settings, seed)


@pytest.mark.parametrize(
    "arguments",
    [
        {"name": "iid"},
        {"name": "IidPartitioner"},
        {"name": "dirichlet", "alpha": 0.5},
        {"name": "DirichletPartitioner", "alpha": 0.5},
        {
            "name": "pathological",
            "num_classes_per_partition": 3,
            "class_assignment_mode": "first-deterministic",
        },
        {"name": "linear"},
        {"name": "square"},
    ],
    ids=lambda arguments: arguments["name"],
)
def test_every_example_is_with_exactly_one_client(arguments: dict[str, object]) -> None:
    partition = dealt(**arguments)
    everyone = np.concatenate([partition.indices(client) for client in range(len(partition))])
    assert sorted(everyone.tolist()) == list(range(len(load_dataset("digits").train)))
    assert partition.sizes.sum() == len(everyone)


@given(st.integers(1, 60), st.integers(0, 40), st.integers(0, 3))
@example(1, 2, 0)
@settings(max_examples=25)
def test_iid_is_what_flwr_datasets_partitioner_deals(clients: int, more: int, wanted: int) -> None:
    examples = clients * max(wanted, 1) + more
    labels = np.arange(examples)[::-1] % 3  # never sorted: sorted examples are shuffled first
    split = Split(np.zeros((examples, 1, 1, 1), np.uint8), labels)
    dataset = SimpleNamespace(train=split, domains=(), task=Classification(classes=("0",)))
    theirs = IidPartitioner(clients)
    theirs.dataset = Dataset.from_dict({"index": np.arange(examples)})
    data = DataSettings(clients=clients, examples_per_client=wanted or None)
    sizes, indices = deal(dataset, np.arange(examples), data, 0)
    parts = np.split(indices, np.cumsum(sizes)[:-1])
    assert len(parts) == clients
    for client, own in enumerate(parts):
        expected = theirs.load_partition(client)["index"][:]
        if wanted:
            assert len(own) == wanted
            assert set(own.tolist()) <= set(expected)
        else:
            assert own.tolist() == list(expected)


def test_shards_leave_out_only_what_fills_none() -> None:
    partition = dealt(name="shard", num_shards_per_partition=2)
    everyone = np.concatenate([partition.indices(client) for client in range(10)])
    assert len(set(everyone.tolist())) == len(everyone)
    assert len(load_dataset("digits").train) - 20 < len(everyone)


def test_the_same_seed_deals_the_same_and_another_seed_does_not() -> None:
    arguments = {"name": "dirichlet", "alpha": 0.3}
    one, two = dealt(seed=1, **arguments), dealt(seed=2, **arguments)
    assert one.indices(0).tolist() == dealt(seed=1, **arguments).indices(0).tolist()
    assert one.indices(0).tolist() != two.indices(0).tolist()


def test_dirichlet_skews_classes_and_iid_does_not() -> None:
    labels = load_dataset("digits").train.labels
    skewed = class_histogram(labels, dealt(name="dirichlet", alpha=0.1), 10)
    even = class_histogram(labels, dealt(name="iid"), 10)
    assert skewed.sum() == even.sum() == len(labels)
    assert (skewed.max(1) / skewed.sum(1)).mean() > 2 * (even.max(1) / even.sum(1)).mean()


def test_natural_ids_are_the_domains() -> None:
    emoji = load_dataset("emoji")
    partition = dealt(4, dataset="emoji", name="natural-id")
    owned = [set(emoji.train.domains[partition.indices(c)].tolist()) for c in range(4)]
    assert owned == [{0}, {1}, {2}, {3}]
    with pytest.raises(InvalidExperimentError, match=r"data.clients = 5: .* expected .* = 4"):
        dealt(5, dataset="emoji", name="natural-id")


@pytest.mark.slow
def test_a_second_start_does_not_load_the_partitioners() -> None:
    dealt(name="iid")
    code = (
        "import sys; from atoll.clients.data import *;"
        "from atoll.clients.settings import DataSettings;"
        "partition_dataset(load_dataset('digits'), DataSettings(dataset='digits', clients=10), 3);"
        "print(sorted({'datasets', 'flwr_datasets'} & sys.modules.keys()))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


def test_subsets_are_of_the_asked_size() -> None:
    assert dealt(train_examples=100).sizes.sum() == 100
    assert dealt(examples_per_client=7).sizes.tolist() == [7] * 10
    with pytest.raises(InvalidExperimentError, match="examples_per_client = 500: client 0"):
        dealt(examples_per_client=500)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"name": "dirichlt"}, "data.partition.name = 'dirichlt': .*did you mean 'dirichlet'"),
        ({"name": "dirichlet"}, "data.partition.alpha is not set"),
        ({"name": "dirichlet", "alpa": 1}, "data.partition.alpa = 1: .*did you mean 'alpha'"),
        ({"name": "dirichlet", "alpha": -1.0}, "^data.partition.alpha = -1.0: expected "),
        ({"name": "dirichlet", "alpha": float("nan")}, "^data.partition.alpha = nan: expected "),
        ({"name": "dirichlet", "alpha": 1e-300}, "^data.partition.alpha = 1e-300: expected "),
        (
            {"name": "dirichlet", "alpha": 1.0, "train_examples": 50},
            "^data.partition.min_partition_size = 10: there are 50 examples among data.clients = "
            "10, data.train_examples = 50; expected at most 5$",
        ),
        (
            {"name": "dirichlet", "alpha": 0.001, "min_partition_size": 100},
            "^data.partition.min_partition_size = 100: in ten draws data.partition.alpha = 0.001 "
            "left a client with fewer of 1437 examples among data.clients = 10; expected less",
        ),
        (
            {"name": "dirichlet", "alpha": [1.0, 2.0]},
            r"^data.partition.alpha = \[1.0, 2.0\] with data.partition.name = 'dirichlet'",
        ),
        (
            {"name": "pathological", "num_classes_per_partition": 11},
            "^data.partition.num_classes_per_partition = 11.* with data.partition.name",
        ),
        (
            {"clients": 700, "name": "pathological", "num_classes_per_partition": 10},
            "data.partition.num_classes_per_partition = 10.*, data.partition.class_assignment_mode",
        ),
        ({"name": "shard"}, "^data.partition.name = 'shard'.*shard_size"),
        (
            {"name": "shard", "num_shards_per_partition": 100, "shard_size": 100},
            "num_shards_per_partition = 100, data.partition.shard_size = 100 with .*1437 examples",
        ),
        ({"name": "shard", "shard_size": 1000}, "^data.partition.shard_size = 1000 with"),
        (
            {"name": "inner-dirichlet", "partition_sizes": [10] * 3, "alpha": 1.0},
            "^data.clients = 10: inner-dirichlet makes 3 clients",
        ),
        (
            {"name": "size", "partition_sizes": [1000] * 10},
            r"^data.partition.partition_sizes = \[1000.* with data.partition.name = 'size'",
        ),
        (
            {"name": "grouped-natural-id", "group_size": 3, "mode": "strict"},
            "^data.partition.group_size = 3, data.partition.mode = 'strict' with",
        ),
        ({"name": "continuous", "strictness": 2.0}, "^data.partition.strictness = 2.0: expected"),
        ({"name": "domain"}, "^data.partition.name = 'domain'.*: the data set has no domains"),
        ({"name": "domain", "weights": [1.0]}, r"^data.partition.weights = \[1.0\] with"),
        (
            {
                "name": "distribution",
                "distribution_array": [[1.0]],
                "num_unique_labels_per_partition": 1,
                "preassigned_num_samples_per_label": 1,
            },
            r"^data.partition.distribution_array = \[\[1.0\]\]",
        ),
        ({"clients": 5000}, "data.clients = 5000: there are only 1437 training examples"),
        ({"train_examples": 5}, "data.clients = 10: there are only 5"),
    ],
)
def test_impossible_partitions_are_clear_errors(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(InvalidExperimentError, match=message) as caught:
        dealt(**arguments)
    assert len(str(caught.value).splitlines()) == 1


def test_a_distribution_is_dealt_from_a_table_of_numbers() -> None:
    """TOML has no arrays of numpy, which the partitioner asks for."""
    partition = dealt(
        name="distribution",
        distribution_array=[[float(1 + row + column) for column in range(2)] for row in range(10)],
        num_unique_labels_per_partition=2,
        preassigned_num_samples_per_label=3,
    )
    histogram = class_histogram(load_dataset("digits").train.labels, partition, 10)
    assert (histogram > 0).sum(1).tolist() == [2] * 10


def test_every_argument_of_every_partitioner_has_a_range() -> None:
    for name, kind in PARTITIONERS.items():
        for argument in inspect.signature(kind.__init__).parameters:
            assert argument in GIVEN or argument in ARGUMENTS, (name, argument)


def test_every_name_is_a_partitioner_of_flwr_datasets_kind() -> None:
    from flwr_datasets.partitioner import Partitioner

    assert all(issubclass(kind, Partitioner) for kind in PARTITIONERS.values())


@given(st.integers(0, 9), st.floats(0.0, 0.99), st.integers(0, 10**6))
@settings(max_examples=50)
def test_a_clients_test_examples_are_its_own_and_apart(
    client: int, fraction: float, seed: int
) -> None:
    partition = pickle.loads(pickle.dumps(dealt(name="dirichlet", alpha=1.0)))
    train, test = partition.split(client, fraction, seed)
    assert sorted([*train.tolist(), *test.tolist()]) == sorted(partition.indices(client).tolist())
    assert len(train) >= 1
    assert abs(len(test) - fraction * len(partition.indices(client))) <= 1
