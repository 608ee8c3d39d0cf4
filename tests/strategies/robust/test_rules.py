"""What robust rules promise, on vectors: closed forms, brute force, attackers that know them."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.optimize import minimize

from atoll.errors import InvalidExperimentError
from atoll.strategies import FLAME, CenteredClipping, GeometricMedian, NormBound, build_strategy
from atoll.strategies.robust.centered_clipping import clipped_mean
from atoll.strategies.robust.fl_trust import trusted_mean
from atoll.strategies.robust.flame import largest_cluster
from atoll.strategies.robust.geometric_median import geometric_median

Floats = NDArray[np.float64]
Rule = Callable[[Floats], Floats]
HONEST = np.random.default_rng(0).normal(1.0, 1.0, (9, 5))


def with_attackers(sent: Floats, count: int) -> Floats:
    return np.concatenate([HONEST, np.repeat(sent[None], count, axis=0)])


def worst_shift(rule: Rule, count: int) -> float:
    """Return how far an attacker that knows the rule moves it, by search.

    It sends the honest mean moved by any of many lengths along several directions, and further
    towards what has moved the rule most.
    """
    plain = rule(HONEST)
    mean, random = HONEST.mean(0), np.random.default_rng(1)
    directions = [-mean, -HONEST.std(0), -np.sign(mean), *random.normal(size=(4, 5))]
    shifts = [
        float(np.linalg.norm(rule(with_attackers(mean + length * d, count)) - plain))
        for d in directions
        for length in (*np.geomspace(1e-2, 1e3, 30), 1e6, 1e9, 1e12)
    ]
    return max(shifts)


def test_the_geometric_median_has_the_least_sum_of_distances() -> None:
    found = geometric_median(HONEST)
    best = minimize(lambda v: np.linalg.norm(HONEST - v, axis=1).sum(), HONEST.mean(0), tol=1e-12).x
    assert np.abs(found - best).max() < 1e-4
    # Of five points on a line it is the one in the middle.
    line = np.array([[0.0], [1.0], [2.0], [50.0], [1e6]])
    assert geometric_median(line, iterations=10_000) == pytest.approx(2.0, abs=1e-3)


@pytest.mark.slow
def test_less_than_half_cannot_move_the_geometric_median_beyond_its_bound() -> None:
    for count in range(1, 9):
        honest, everyone = len(HONEST), len(HONEST) + count
        farthest = np.linalg.norm(HONEST - geometric_median(HONEST), axis=1).max()
        bound = 2 * honest / (honest - count) * farthest
        assert worst_shift(geometric_median, count) <= bound, (count, everyone)


def test_more_than_half_move_the_geometric_median_at_will() -> None:
    assert worst_shift(geometric_median, 10) > 1e9


def test_one_attacker_moves_a_mean_at_will() -> None:
    assert worst_shift(lambda updates: updates.mean(0), 1) > 1e9


@pytest.mark.parametrize("radius", [0.1, 1.0, 10.0])
def test_attackers_move_a_clipped_mean_by_their_share_of_twice_the_radius(radius: float) -> None:
    # Beside what they add, they take their share of the honest clients' place.
    for count in (1, 4, 9, 20):
        shift = worst_shift(lambda updates: clipped_mean(updates, np.zeros(5), radius), count)
        assert shift <= 2 * radius * count / (len(HONEST) + count) + 1e-9


def test_clipping_beyond_every_norm_is_the_mean() -> None:
    for strategy in (CenteredClipping(radius=1e6), NormBound(bound=1e6)):
        assert np.allclose(strategy.combine(1, HONEST, range(9)), HONEST.mean(0), atol=1e-12)


def test_clipping_within_is_a_mean_of_directions() -> None:
    units = HONEST / np.linalg.norm(HONEST, axis=1, keepdims=True)
    expected = 0.01 * units.mean(0)
    assert np.allclose(NormBound(bound=0.01).combine(1, HONEST, range(9)), expected)


def test_the_centre_of_a_round_is_the_last_rounds_update() -> None:
    strategy = CenteredClipping(radius=0.5)
    first = strategy.combine(1, HONEST, range(9))
    assert np.allclose(first, clipped_mean(HONEST, np.zeros(5), 0.5))
    assert np.allclose(strategy.combine(2, HONEST, range(9)), clipped_mean(HONEST, first, 0.5))
    # With steps enough it comes to where honest updates are.
    far = CenteredClipping(radius=0.5, steps=200).combine(1, with_attackers(np.full(5, 1e9), 2), [])
    assert np.linalg.norm(far - HONEST.mean(0)) < 1.0


def test_momentum_is_of_each_client_and_switching_it_off_changes_the_result() -> None:
    with_it, without = CenteredClipping(radius=1e6, momentum=0.9), CenteredClipping(radius=1e6)
    for strategy in (with_it, without):
        strategy.combine(1, HONEST, range(9))
    later = with_it.combine(2, 2 * HONEST, range(9))
    assert np.allclose(later, (0.9 * HONEST + 0.1 * 2 * HONEST).mean(0))
    assert not np.allclose(later, without.combine(2, 2 * HONEST, range(9)))


def test_noise_has_its_deviation() -> None:
    updates = np.zeros((3, 20_000))
    noisy = NormBound(bound=1.0, noise=0.5).combine(1, updates, range(3))
    assert noisy.std() == pytest.approx(0.5, rel=0.05)
    ones = np.eye(1, 20_000) + updates
    flame = FLAME(noise=0.1).combine(1, ones, range(3))
    assert flame[1:].std() == pytest.approx(0.1, rel=0.05)


def test_fl_trust_is_the_papers_mean_and_no_longer_than_the_servers_update() -> None:
    own = HONEST[0]
    expected, total = np.zeros(5), 0.0
    for update in HONEST:
        cosine = update @ own / np.linalg.norm(update) / np.linalg.norm(own)
        trust = max(0.0, cosine)
        total += trust
        expected += trust * np.linalg.norm(own) / np.linalg.norm(update) * update
    assert np.allclose(trusted_mean(HONEST, own), expected / total)

    def rule(updates: Floats) -> Floats:
        return trusted_mean(updates, own)

    # Any number of attackers: the mean stays within the ball of the server's norm.
    for count in (1, 9, 100):
        assert worst_shift(rule, count) <= 2 * np.linalg.norm(own) + 1e-9
    assert not trusted_mean(-np.abs(HONEST), np.abs(own)).any()


def test_flame_keeps_a_majority_and_leaves_out_a_minority_of_another_direction() -> None:
    honest = np.array([1.0, 0.0, 0.0]) + 0.05 * np.random.default_rng(2).normal(size=(7, 3))
    updates = np.concatenate([honest, -honest[:4]])
    kept = largest_cluster(updates)
    assert kept.sum() > len(updates) / 2
    assert not kept[len(honest) :].any()
    strategy = FLAME(noise=0.0)
    found = strategy.combine(1, updates, range(11))
    norms = np.linalg.norm(updates, axis=1)
    clipped = np.minimum(1, np.median(norms) / norms)[:, None] * updates
    assert np.allclose(found, clipped[kept].mean(0))
    assert strategy.figures == {"kept-clients": kept.sum()}


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("GeometricMedian", {"smoothing": 0.0}),
        ("CenteredClipping", {"momentum": 1.0}),
        ("NormBound", {"bound": -1.0}),
        ("FLTrust", {"root_examples": 0}),
        ("FLAME", {"noise": -1.0}),
    ],
)
def test_arguments_out_of_range_are_refused(name: str, arguments: dict[str, float]) -> None:
    with pytest.raises(InvalidExperimentError, match=f"strategy.{next(iter(arguments))} = "):
        build_strategy(name, arguments)


def test_the_default_of_the_median_uses_the_rule() -> None:
    updates = with_attackers(np.full(5, 1e9), 4)
    found = GeometricMedian().combine(1, updates, range(13))
    assert np.allclose(found, geometric_median(updates))
