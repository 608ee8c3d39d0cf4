"""Clients with different numbers of examples."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from atoll.clients import DataSettings, PartitionSettings, load_dataset, partition_dataset
from atoll.errors import InvalidExperimentError


def sizes_of(clients: int, alpha: float, seed: int, least: int = 1) -> np.ndarray:
    arguments = {"alpha": alpha, "min_partition_size": least}
    settings = DataSettings(
        dataset="digits", clients=clients, partition=PartitionSettings(name="quantity", **arguments)
    )
    dataset = load_dataset("digits")
    partition = partition_dataset(dataset, settings, seed)
    every = np.concatenate([partition.indices(client) for client in range(clients)])
    assert sorted(every) == list(range(len(dataset.train)))
    return partition.sizes


@settings(max_examples=15, deadline=None)
@given(
    clients=st.integers(1, 40),
    alpha=st.sampled_from([0.001, 0.1, 1.0, 100.0, 1e6]),
    seed=st.integers(0, 2**32),
    least=st.integers(0, 10),
)
def test_every_example_has_one_client_and_every_client_the_least(
    clients: int, alpha: float, seed: int, least: int
) -> None:
    assert sizes_of(clients, alpha, seed, least).min() >= least


def test_sizes_spread_as_the_dirichlet_distribution_says() -> None:
    clients, alpha = 8, 0.5
    sizes = np.stack([sizes_of(clients, alpha, seed, least=0) for seed in range(60)])
    shares = sizes / sizes[0].sum()
    # Var of a share: a (A - a) / (A^2 (A + 1)) with A = clients * a.
    total = clients * alpha
    expected = alpha * (total - alpha) / (total**2 * (total + 1))
    assert shares.mean(0) == pytest.approx(np.full(clients, 1 / clients), abs=0.08)
    assert shares.var() == pytest.approx(expected, rel=0.25)


def test_labels_are_the_same_everywhere() -> None:
    labels = load_dataset("digits").train.labels
    settings = DataSettings(
        dataset="digits", clients=3, partition=PartitionSettings(name="quantity", alpha=2.0)
    )
    partition = partition_dataset(load_dataset("digits"), settings, 0)
    for client in range(3):
        own = labels[partition.indices(client)]
        assert np.bincount(own, minlength=10) / len(own) == pytest.approx(0.1, abs=0.08)


def test_too_few_examples_name_the_keys() -> None:
    with pytest.raises(InvalidExperimentError, match=r"min_partition_size = 1000.*data\.clients"):
        sizes_of(5, 1.0, 0, least=1000)
