"""The domain partitioner: whole at 1, even at 0, every example once at any knob."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from atoll.clients.data import load_dataset, partition_dataset
from atoll.clients.data.partitioning.domain_partitioner import DomainPartitioner
from atoll.clients.settings import DataSettings, PartitionSettings
from atoll.errors import InvalidExperimentError


def counts(clients: int, held_out: tuple[str, ...] = (), **arguments: object) -> np.ndarray:
    """Examples of each domain with each client: shape (clients, domains)."""
    emoji = load_dataset("emoji")
    chosen = DataSettings(
        dataset="emoji",
        clients=clients,
        held_out=held_out,
        partition=PartitionSettings(name="domain", **arguments),
    )
    partition = partition_dataset(emoji, chosen, 5)
    everyone = np.concatenate([partition.indices(c) for c in range(clients)])
    assert len(np.unique(everyone)) == len(everyone)
    held = [emoji.domains.index(domain) for domain in held_out]
    assert len(everyone) == (~np.isin(emoji.train.domains, held)).sum()
    return np.stack(
        [
            np.bincount(emoji.train.domains[partition.indices(c)], minlength=4)
            for c in range(clients)
        ]
    )


def test_one_domain_a_client_is_the_default() -> None:
    size = len(load_dataset("emoji").train) // 4
    np.testing.assert_array_equal(counts(4), size * np.eye(4))
    three = counts(3, held_out=("google",))
    assert (three[:, 1] == 0).all()
    np.testing.assert_array_equal(three[:, [0, 2, 3]], size * np.eye(3))


def test_zero_mixes_domains_evenly_and_half_is_between() -> None:
    size = len(load_dataset("emoji").train) // 4
    assert np.ptp(counts(4, heterogeneity=0.0)) <= 1
    half = counts(4, heterogeneity=0.5)
    assert abs(np.diag(half) - (0.5 + 0.5 / 4) * size).max() <= 1
    assert abs(half[~np.eye(4, dtype=bool)] - 0.5 / 4 * size).max() <= 1


def test_domains_are_split_over_several_clients_of_unequal_sizes() -> None:
    size = len(load_dataset("emoji").train) // 4
    split = counts(
        4,
        held_out=("twitter", "facebook"),
        clients_per_domain={"apple": 3, "google": 1},
        weights=[1.0, 2.0, 3.0, 1.0],
    )
    assert abs(split[:3, 0] - np.array([1, 2, 3]) / 6 * size).max() <= 1
    assert split[3].tolist() == [0, size, 0, 0]
    assert (counts(9) > 0).sum(axis=0).tolist() == [3, 2, 2, 2]


def test_a_domain_with_no_client_of_its_own_is_spread_over_all() -> None:
    size = len(load_dataset("emoji").train) // 4
    homes = {"apple": 1, "google": 1, "twitter": 0}
    dealt = counts(2, held_out=("facebook",), clients_per_domain=homes)
    assert dealt[:, :2].tolist() == [[size, 0], [0, size]]
    assert abs(dealt[:, 2] - size / 2).max() <= 1


def test_clients_without_examples_are_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    counts(2, held_out=("twitter", "facebook"), weights=[1.0, 1.0])
    assert not caplog.records
    counts(3, held_out=("twitter", "facebook"), weights=[1.0, 1e-9, 1.0])
    assert "leaves 1 of 3 clients without examples" in caplog.text


def test_fewer_clients_than_domains_have_several() -> None:
    assert (counts(3) > 0).sum(axis=1).tolist() == [2, 1, 1]
    assert (counts(1) > 0).tolist() == [[True] * 4]


@given(
    st.lists(st.integers(0, 3), min_size=12, max_size=60),
    st.integers(1, 12),
    st.floats(0.0, 1.0),
    st.integers(0, 100),
)
@settings(max_examples=40)
@pytest.mark.slow
def test_every_example_is_with_one_client(
    domains: list[int], clients: int, heterogeneity: float, seed: int
) -> None:
    from datasets import Dataset

    partitioner = DomainPartitioner(clients, heterogeneity=heterogeneity, seed=seed)
    partitioner.dataset = Dataset.from_dict({"domain": domains, "i": list(range(len(domains)))})
    dealt = [i for client in range(clients) for i in partitioner.load_partition(client)["i"]]
    assert sorted(dealt) == list(range(len(domains)))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"heterogeneity": 1.5}, "heterogeneity = 1.5: expected less than or equal to 1"),
        ({"weights": [1.0]}, r"weights = \[1.0\]: expected 4 positive numbers"),
        ({"clients_per_domain": 1, "held_out": ("apple",)}, "makes 3 clients, expected 4"),
        (
            {"clients_per_domain": {"apple": 2, "google": 2}},
            "does not say how many clients 'twitter' has; expected it there, or in data.held_out",
        ),
        (
            {"clients_per_domain": {"apple": -1}},
            "{'apple': -1}: expected a valid integer or greater than",
        ),
        ({"heterogeneity": "high"}, "heterogeneity = 'high': expected a valid number"),
        ({"weights": [1, 2, 3, float("nan")]}, r"nan\]: expected a finite number"),
        ({"held_out": ("apple", "apple")}, "names 'apple' twice"),
        ({"clients_per_domain": {"appl": 4}}, "names 'appl', which has no training examples"),
        ({"heterogenity": 1}, "data.partition.heterogenity = 1: .*did you mean 'heterogeneity'"),
        (
            {"held_out": ("google",), "clients_per_domain": {"apple": 2, "google": 2}},
            "gives clients the domain 'google', which data.held_out keeps from them",
        ),
        ({"held_out": ("gogle",)}, "data.held_out = 'gogle': .*did you mean 'google'"),
        (
            {"held_out": ("apple", "google", "twitter", "facebook")},
            "no domain is left to train on",
        ),
    ],
)
def test_impossible_domains_are_clear_errors(arguments: dict, message: str) -> None:
    with pytest.raises(InvalidExperimentError, match=message):
        counts(4, **arguments)


def test_data_without_domains_is_refused() -> None:
    chosen = DataSettings(dataset="digits", clients=2, partition=PartitionSettings(name="domain"))
    with pytest.raises(InvalidExperimentError, match="the data set has no domains"):
        partition_dataset(load_dataset("digits"), chosen, 0)
