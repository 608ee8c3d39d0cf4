"""Rates and areas of scores, against counts over every threshold and pair."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import binom
from sklearn.metrics import roc_curve

from atoll.attacks.membership.operating_points import auroc, found_at, roc, steps


@pytest.fixture
def scores() -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(0)
    # Rounded, so that there are ties.
    members = np.round(generator.normal(0.7, 1.0, 150), 1)
    return members, np.round(generator.normal(0.0, 1.0, 400), 1)


def test_the_area_counts_pairs(scores: tuple[np.ndarray, np.ndarray]) -> None:
    members, others = scores
    pairs = np.sign(members[:, None] - others[None, :])
    expected = (pairs > 0).mean() + 0.5 * (pairs == 0).mean()
    found = auroc(members, others)
    assert found.value == pytest.approx(expected)
    assert found.low < found.value < found.high
    false, true = roc(members, others)
    assert np.trapezoid(true, false) == pytest.approx(expected)


@pytest.mark.parametrize("rate", [0.0, 0.001, 0.01, 0.1])
def test_the_share_found_is_the_best_of_all_allowed_thresholds(
    scores: tuple[np.ndarray, np.ndarray], rate: float
) -> None:
    members, others = scores
    thresholds = [*np.unique(np.concatenate([members, others])), -np.inf]
    allowed = [t for t in thresholds if (others > t).mean() <= rate + 1e-12]
    best = max((members > t).mean() for t in allowed)
    assert found_at(members, others, rate).value == pytest.approx(best)


def test_the_interval_is_clopper_and_pearsons() -> None:
    found = found_at([1.0] * 7 + [-1.0] * 13, [0.0] * 50, 0.01)
    assert found.value == 0.35
    # At the ends the count is as improbable as the tail allows.
    assert binom.sf(6, 20, found.low) == pytest.approx(0.025)
    assert binom.cdf(7, 20, found.high) == pytest.approx(0.025)
    nobody, all_of_them = found_at([0.0], [1.0], 0.0), found_at([2.0], [1.0], 0.0)
    assert (nobody.value, nobody.low) == (0.0, 0.0)
    assert (all_of_them.value, all_of_them.high) == (1.0, 1.0)


def test_areas_are_covered_by_their_intervals() -> None:
    generator, covered = np.random.default_rng(1), 0
    for _ in range(200):
        found = auroc(generator.normal(1.0, 1.0, 60), generator.normal(0.0, 1.0, 60))
        # Of two normals one deviation apart: Phi(1 / sqrt 2).
        covered += found.low <= 0.7602 <= found.high
    assert covered >= 180


def tied_at_the_top() -> tuple[np.ndarray, np.ndarray]:
    """Scores as RMIA's with 20 of a population: many members and some others have the highest."""
    generator = np.random.default_rng(2)
    members = np.clip(generator.binomial(20, 0.9, 300), 0, 20) / 20
    return members, generator.binomial(20, 0.5, 300) / 20


@pytest.mark.parametrize("others_at_the_top", [0, 1, 3, 30])
def test_tied_scores_have_scikit_learns_curve_and_no_threshold_splits_them(
    others_at_the_top: int,
) -> None:
    members, others = tied_at_the_top()
    others[:others_at_the_top] = 1.0
    is_member = np.r_[np.ones(len(members)), np.zeros(len(others))]
    theirs = roc_curve(is_member, np.r_[members, others], drop_intermediate=False)
    false, true = roc(members, others)
    np.testing.assert_array_equal(false, theirs[0])
    np.testing.assert_array_equal(true, theirs[1])
    for rate in (0.0, 0.001, 0.01, 0.05, 0.5):
        reached = true[false <= rate].max()
        assert found_at(members, others, rate).value == reached
        x, y = steps(false, true)
        # The curve that is drawn says the same.
        assert y[x <= rate].max() == reached
    # All members at the top are found, or none of them.
    found = found_at(members, others, 0.01).value
    assert found == 0.0 if others_at_the_top > 3 else found >= (members == 1.0).mean()
