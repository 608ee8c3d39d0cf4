"""Bounds and estimates of epsilon: against enumeration of the theorem, and known mechanisms."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

from atoll.privacy.gaussian import exact_gaussian_epsilon
from atoll.privacy.one_run import audit_scores, epsilon_bound, p_value
from atoll.privacy.one_shot import epsilon_between, one_shot_epsilon


def enumerated(canaries: int, guesses: int, right: int, epsilon: float, delta: float) -> float:
    """Return theorem 5.2's right side, by a sum over every outcome of randomised response."""
    chance = math.exp(epsilon) / (1 + math.exp(epsilon))
    mass = [0.0] * (guesses + 1)
    for outcome in itertools.product((0, 1), repeat=guesses):
        count = sum(outcome)
        mass[count] += chance**count * (1 - chance) ** (guesses - count)
    beta = sum(mass[right:])
    alphas = [sum(mass[right - i : right]) / i for i in range(1, right + 1)]
    return min(beta + 2 * canaries * delta * max(alphas, default=0.0), 1.0)


@pytest.mark.parametrize("guesses", [1, 5, 9])
@pytest.mark.parametrize("epsilon", [0.0, 0.7, 3.0])
@pytest.mark.parametrize("delta", [0.0, 1e-3])
def test_the_p_value_is_the_theorems(guesses: int, epsilon: float, delta: float) -> None:
    for right in range(guesses + 1):
        expected = enumerated(12, guesses, right, epsilon, delta)
        assert p_value(12, guesses, right, epsilon, delta) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize(
    ("canaries", "guesses", "right", "epsilon", "delta", "expected"),
    [
        (1000, 100, 90, 1.0, 1e-5, 0.0008412885614385305),
        (1000, 1000, 600, 0.3, 1e-4, 0.05811847244519229),
        (200, 200, 190, 2.0, 1e-3, 0.019461021017561017),
        (150, 76, 60, 0.5, 1e-3, 0.01674987891370356),
    ],
)
def test_the_p_value_is_that_of_the_papers_code(
    canaries: int, guesses: int, right: int, epsilon: float, delta: float, expected: float
) -> None:
    # The code of the paper's appendix, as zj-jayzhang/one_round_auditing has it (91fd340), run.
    assert p_value(canaries, guesses, right, epsilon, delta) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize(
    ("mean", "deviation", "dimensions", "delta", "expected"),
    [
        (0.03, 0.01, 10_000, 1e-5, 16.67549440282806),
        (0.05, 0.012, 10_000, 1e-6, 45.025285334703796),
        (0.01, 0.009, 10_000, 1e-5, 7.357787432430718),
        (0.002, 0.01, 10_000, 1e-3, 0.453920155741713),
        (0.2, 0.02, 2_000, 1e-7, 110.5632154805095),
    ],
)
def test_the_one_shot_estimate_is_that_of_the_papers_code(
    mean: float, deviation: float, dimensions: int, delta: float, expected: float
) -> None:
    # one_shot_epe of google-research/federated (a5af8c4), run.
    found = epsilon_between((mean, deviation), (0.0, dimensions**-0.5), delta)
    assert found == pytest.approx(expected, rel=1e-9)


def test_the_bound_is_the_last_epsilon_that_is_refuted() -> None:
    bound = epsilon_bound(50, 40, 38, 1e-4, 0.95)
    assert p_value(50, 40, 38, bound - 1e-6, 1e-4) <= 0.05 < p_value(50, 40, 38, bound + 1e-6, 1e-4)
    assert epsilon_bound(50, 40, 38, 0.0, 0.95) > bound > epsilon_bound(50, 40, 38, 1e-4, 0.99)


@pytest.mark.slow
def test_randomised_response_is_refuted_no_more_often_than_confidence_allows() -> None:
    generator, epsilon, canaries, wrong = np.random.default_rng(0), 1.0, 200, 0
    bounds = []
    for _ in range(200):
        coins = generator.random(canaries) < 0.5
        is_true = generator.random(canaries) < math.exp(epsilon) / (1 + math.exp(epsilon))
        said = np.where(is_true, coins, ~coins) + 1e-6 * generator.random(canaries)
        bounds.append(audit_scores(said, coins, 0.0, 0.95).epsilon)
        wrong += bounds[-1] > epsilon
    assert wrong <= 0.05 * 200 + 3 * math.sqrt(200 * 0.05 * 0.95)
    # The bound is worth something: half of them are above half of the truth.
    assert np.median(bounds) > epsilon / 2


def test_scores_that_say_nothing_bound_nothing() -> None:
    generator = np.random.default_rng(1)
    coins = generator.random(400) < 0.5
    assert audit_scores(generator.random(400), coins, 1e-5, 0.95).epsilon < 0.2
    # Guesses the wrong way round are no evidence either.
    assert audit_scores(-1.0 * coins, coins, 1e-5, 0.95).epsilon == 0.0


@pytest.mark.parametrize("mu", [0.5, 2.0])
def test_two_normals_of_one_deviation_are_the_gaussian_mechanism(mu: float) -> None:
    exact = exact_gaussian_epsilon(mu, 1e-5)
    assert epsilon_between((3 * mu, 3.0), (0.0, 3.0), 1e-5) == pytest.approx(exact, rel=1e-6)


@pytest.mark.parametrize("spread", [0.5, 1.5])
def test_two_normals_of_other_deviations_by_an_integral(spread: float) -> None:
    epsilon = epsilon_between((1.0, spread), (0.0, 1.0), 1e-3)
    x = np.linspace(-30, 30, 1_000_001)
    p = np.exp(-(((x - 1) / spread) ** 2) / 2) / (spread * math.sqrt(2 * math.pi))
    q = np.exp(-(x**2) / 2) / math.sqrt(2 * math.pi)
    deltas = [
        np.maximum(a - math.exp(epsilon) * b, 0).sum() * (x[1] - x[0]) for a, b in ((p, q), (q, p))
    ]
    assert max(deltas) == pytest.approx(1e-3, rel=1e-3)


def test_the_one_shot_estimate_is_near_the_epsilon_of_a_gaussian_release() -> None:
    generator, dimensions, canaries = np.random.default_rng(2), 5_000, 1_000
    directions = generator.standard_normal((canaries, dimensions))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    noise = 2.0 * generator.standard_normal(dimensions)
    released = directions.sum(0) + noise
    cosines = directions @ released / np.linalg.norm(released)
    found = one_shot_epsilon(cosines, dimensions, 1e-2)
    assert found == pytest.approx(exact_gaussian_epsilon(1 / 2.0, 1e-2), rel=0.4)
