"""Central privacy: clipping, noise, draws, and what the wrapped strategy gets."""

from __future__ import annotations

import math

import numpy as np
import pytest
from flwr.serverapp.strategy import FedAvg, FedAvgM
from numpy.typing import NDArray

from atoll.flower.arrays import array_record, to_array, view
from atoll.strategies.privacy.central_dp import CentralDP
from atoll.strategies.privacy.clipping import next_norm, noise_beside_counts
from atoll.strategies.privacy.cohorts import draw_cohort
from atoll.strategies.privacy.noise import fresh_noise, tree_noise
from tests.support.strategies.private_rounds import model, private_round, private_run

HARDLY = 1e-9


def strategy(clients: int = 10, fraction: float = 1.0, **arguments: object) -> CentralDP:
    inner = FedAvg(fraction_train=fraction, fraction_evaluate=0.0, min_train_nodes=1)
    given = {"noise_multiplier": HARDLY, "delta": 1e-5, **arguments}
    return CentralDP(inner, clients, **given)  # type: ignore[arg-type]


def growing(node: int, server_round: int) -> NDArray[np.float64]:
    return np.array([0.3 * node, -0.4 * node])


def test_the_mean_is_that_of_clipped_updates_with_equal_weights() -> None:
    private = strategy(clipping_norm=2.0)
    start = np.array([1.0, 2.0])
    after, metrics, _ = private_round(private, 1, start, growing)
    # Norms are node / 2: nodes 5 to 10 are clipped to 2, whatever their examples.
    norms = np.minimum(np.arange(1, 11) / 2, 2.0)
    expected = start + norms.sum() / 10 * np.array([0.6, -0.8])
    assert after == pytest.approx(expected, abs=1e-7)
    assert metrics["clipped_share"] == 0.6
    assert metrics["loss"] == 5.5
    without = private_round(strategy(clipping_norm=1e6), 1, start, growing)[0]
    assert abs(without - after).max() > 0.1


def test_the_noise_has_the_deviation_that_is_accounted_for() -> None:
    size = 40_000
    private = strategy(noise_multiplier=3.0, clipping_norm=0.5, clients=20, fraction=0.5)
    first, second = (
        private_round(private, r, np.zeros(size), lambda *_: np.zeros(size))[0] for r in (1, 2)
    )
    # z C over the cohort of 10; rounds are independent.
    assert first.std() == pytest.approx(3.0 * 0.5 / 10, rel=0.02)
    assert abs(np.corrcoef(first, second)[0, 1]) < 0.02
    again = private_round(private, 1, np.zeros(size), lambda *_: np.zeros(size))[0]
    assert (again == first).all()


def test_a_round_without_anybody_has_noise_all_the_same() -> None:
    private = strategy(clients=1_000, fraction=0.001, sampling="poisson", noise_multiplier=1.0)
    empty = [r for r in range(1, 20) if not draw_cohort(range(1, 1_001), "poisson", 1, r, seed=0)]
    after, metrics, nodes = private_round(private, empty[0], np.zeros(4), growing)
    assert nodes == []
    assert (after != 0).all()
    assert metrics["privacy_epsilon"] > 0.0


def test_the_strategy_within_takes_the_noisy_mean_for_the_clients() -> None:
    inner = FedAvgM(
        fraction_train=1.0, fraction_evaluate=0.0, server_learning_rate=0.5, server_momentum=0.0
    )
    private = CentralDP(inner, 10, noise_multiplier=1.0, delta=1e-5, seed=3)
    values = np.array([1.0, 2.0])
    inner.current_arrays = model(values)
    got = private_round(private, 1, values, growing)[0]
    noise = fresh_noise({"w": (2,)}, 1.0, 1, seed=3)["w"]
    scales = np.minimum(1.0, 1.0 / (np.arange(1, 11) / 2))
    clipped = sum(s * growing(n, 1) for n, s in zip(range(1, 11), scales, strict=True))
    # Half a step towards the mean, with the server's learning rate.
    assert got == pytest.approx(values + 0.5 * (clipped + noise) / 10)
    assert inner.fraction_train == 1.0


def test_draws_are_what_the_accountant_takes_them_for() -> None:
    nodes = range(1, 101)
    fixed = [draw_cohort(nodes, "fixed", 20, r, seed=1) for r in range(1, 201)]
    assert all(len(set(cohort)) == 20 for cohort in fixed)
    poisson = [draw_cohort(nodes, "poisson", 20, r, seed=1) for r in range(1, 2_001)]
    sizes = np.array([len(cohort) for cohort in poisson])
    assert sizes.mean() == pytest.approx(20, abs=0.4)
    # A binomial's variance: 100 * 0.2 * 0.8.
    assert sizes.var() == pytest.approx(16, rel=0.15)
    joins = np.bincount(np.concatenate(poisson), minlength=101)[1:]
    assert abs(joins - 400).max() < 5 * math.sqrt(2_000 * 0.16)
    for epoch in range(3):
        rounds = range(5 * epoch + 1, 5 * epoch + 6)
        came = [n for r in rounds for n in draw_cohort(nodes, "epochs", 20, r, seed=1)]
        assert sorted(came) == list(nodes)
    first, second = (draw_cohort(nodes, "epochs", 20, r, seed=1) for r in (1, 6))
    assert first != second


@pytest.mark.parametrize("rounds", [1, 5, 6, 8])
def test_the_trees_noise_is_that_of_the_nodes_of_the_sum(rounds: int) -> None:
    shapes, leaves = {"w": (20_000,)}, 8
    so_far = sum(tree_noise(shapes, 2.0, r, leaves, seed=0)["w"] for r in range(1, rounds + 1))
    assert np.var(so_far) == pytest.approx(4.0 * rounds.bit_count(), rel=0.05)
    # The next epoch's tree is another, and the old one's noise stays.
    later = tree_noise(shapes, 2.0, leaves + 1, leaves, seed=0)["w"]
    assert np.var(later) == pytest.approx(4.0, rel=0.05)
    assert abs(np.corrcoef(later, so_far)[0, 1]) < 0.03


def test_each_update_is_in_as_many_nodes_as_the_accountant_counts() -> None:
    from atoll.strategies.privacy.noise import _nodes

    for leaves in range(1, 40):
        released = set().union(*(_nodes(count) for count in range(1, leaves + 1)))
        depth = [
            sum(place << level <= leaf < (place + 1) << level for level, place in released)
            for leaf in range(leaves)
        ]
        assert max(depth) <= leaves.bit_length()


def test_the_tree_leaves_less_noise_in_the_model_than_fresh_noise() -> None:
    size = 5_000
    arguments = {"clients": 64, "fraction": 1 / 32, "noise_multiplier": 1.0, "sampling": "epochs"}

    def still(node: int, server_round: int) -> NDArray[np.float64]:
        return np.zeros(size)

    fresh = private_run(strategy(**arguments), 31, size, still)[-1]  # type: ignore[arg-type]
    tree = private_run(strategy(**arguments, mechanism="tree"), 31, size, still)[-1]  # type: ignore[arg-type]
    assert np.var(fresh) == pytest.approx(31 / 4, rel=0.1)
    assert np.var(tree) == pytest.approx(5 / 4, rel=0.1)


def test_adaptive_clipping_comes_to_the_quantile() -> None:
    norms = np.random.default_rng(0).lognormal(0.0, 1.0, 2_000).tolist()
    norm = 10.0
    for server_round in range(1, 101):
        norm = next_norm(
            norm,
            norms,
            cohort=2_000,
            quantile=0.7,
            rate=0.2,
            count_deviation=20.0,
            server_round=server_round,
            seed=0,
        )
    assert norm == pytest.approx(np.quantile(norms, 0.7), rel=0.05)


def test_the_noise_beside_counts_spends_the_same_together() -> None:
    # Squared sensitivities by deviation add up: 1/z^2 = 1/z_updates^2 + (1/2)^2 / b^2.
    updates = noise_beside_counts(1.5, 4.0)
    assert updates > 1.5
    assert updates**-2 + 0.25 / 16 == pytest.approx(1.5**-2)
    with pytest.raises(ValueError, match="expected a larger cohort"):
        noise_beside_counts(1.5, 0.7)


def test_adaptive_clipping_moves_the_norm_and_the_noise_with_it() -> None:
    private = strategy(clients=100, quantile=0.5, noise_multiplier=1.0, clipping_norm=1.0)
    _, metrics, _ = private_round(private, 1, np.zeros(2), lambda *_: np.full(2, 10.0))
    assert metrics["clipping_norm"] == 1.0
    assert private.clipping_norm > 1.0
    size = 20_000
    after, _, _ = private_round(private, 2, np.zeros(size), lambda *_: np.zeros(size))
    deviation = noise_beside_counts(1.0, 5.0) * metrics_norm(private, size)
    assert after.std() == pytest.approx(deviation / 100, rel=0.03)


def metrics_norm(private: CentralDP, size: int) -> float:
    """Return the norm of the second round, which the round's end has moved on."""
    again = strategy(clients=100, quantile=0.5, noise_multiplier=1.0, clipping_norm=1.0)
    private_round(again, 1, np.zeros(2), lambda *_: np.full(2, 10.0))
    assert again.clipping_norm != private.clipping_norm
    return again.clipping_norm


def test_an_update_that_is_not_finite_counts_as_none() -> None:
    def broken(node: int, server_round: int) -> NDArray[np.float64]:
        return np.array([math.nan, 0.0]) if node == 3 else np.zeros(2)

    after, _, _ = private_round(strategy(), 1, np.ones(2), broken)
    assert after == pytest.approx(np.ones(2), abs=1e-6)


def test_float32_models_stay_float32() -> None:
    record = array_record({"w": to_array(np.zeros(3, np.float32))})
    assert view(record["w"]).dtype == np.float32
