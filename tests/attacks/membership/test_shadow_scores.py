"""LiRA and RMIA, against the papers' formulas written out with scipy, candidate by candidate."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import norm

from atoll.attacks.membership.operating_points import auroc
from atoll.attacks.membership.shadow_scores import (
    confidence,
    likelihood_ratio,
    offline_likelihood_ratio,
    relative_membership,
)

SHADOWS, CANDIDATES = 12, 40


@pytest.fixture(scope="module")
def shadows() -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(0)
    included = np.zeros((SHADOWS, CANDIDATES), bool)
    for column in included.T:
        column[generator.permutation(SHADOWS)[: SHADOWS // 2]] = True
    return generator.normal(size=(SHADOWS, CANDIDATES)) + 2.0 * included, included


@pytest.mark.parametrize("variance", ["example", "fixed", "auto"])
def test_lira_is_the_ratio_of_two_normal_densities(
    variance: str, shadows: tuple[np.ndarray, np.ndarray]
) -> None:
    values, included = shadows
    target = np.random.default_rng(1).normal(1.0, 2.0, CANDIDATES)
    online = likelihood_ratio(target, values, included, variance)  # type: ignore[arg-type]
    offline = offline_likelihood_ratio(target, values, included, variance)  # type: ignore[arg-type]

    def pooled(chosen: np.ndarray) -> float:
        columns = [values[rows, place] for place, rows in enumerate(chosen.T)]
        squares = sum(((column - column.mean()) ** 2).sum() for column in columns)
        return math.sqrt(squares / sum(len(column) - 1 for column in columns))

    for place in range(CANDIDATES):
        inside = values[included[:, place], place]
        outside = values[~included[:, place], place]
        of_inside, of_outside = inside.std(), outside.std()
        if variance != "example":
            of_inside, of_outside = pooled(included), pooled(~included)
        expected = norm.logpdf(target[place], inside.mean(), of_inside)
        expected -= norm.logpdf(target[place], outside.mean(), of_outside)
        assert online[place] == pytest.approx(expected)
        # The paper's offline score is one minus the upper tail.
        tail = norm.sf(target[place], outside.mean(), of_outside)
        assert norm.cdf(offline[place]) == pytest.approx(1 - tail)


def test_a_variance_of_its_own_needs_32_models_on_each_side() -> None:
    generator = np.random.default_rng(2)
    for count, same_as in ((64, "example"), (62, "fixed")):
        values = generator.normal(size=(count, 5))
        included = np.arange(count)[:, None] % 2 == np.zeros((1, 5))
        target = generator.normal(size=5)
        found = likelihood_ratio(target, values, included)
        assert np.array_equal(found, likelihood_ratio(target, values, included, same_as))  # type: ignore[arg-type]


def test_one_model_of_a_kind_has_no_variance() -> None:
    included = np.array([[True], [False], [False]])
    with pytest.raises(ValueError, match="1 shadow models of one kind; expected at least 2"):
        likelihood_ratio(np.zeros(1), np.zeros((3, 1)), included)
    with pytest.raises(ValueError, match="in all shadow models"):
        values = np.ones((1, 1))
        relative_membership(values[0], values, np.array([[True]]), values[0], values)


@pytest.mark.parametrize(("a", "gamma"), [(0.3, 1.0), (1.0, 2.0), (0.0, 1.5)])
def test_rmia_counts_the_population_that_is_less_likely(
    a: float, gamma: float, shadows: tuple[np.ndarray, np.ndarray]
) -> None:
    _, included = shadows
    generator = np.random.default_rng(3)
    values = generator.uniform(0.05, 1.0, (SHADOWS, CANDIDATES))
    target = generator.uniform(0.05, 1.0, CANDIDATES)
    population = generator.uniform(0.05, 1.0, 25)
    elsewhere = generator.uniform(0.05, 1.0, (SHADOWS, 25))
    found = relative_membership(target, values, included, population, elsewhere, a=a, gamma=gamma)
    for place in range(CANDIDATES):
        out = values[~included[:, place], place].mean()
        ratio = target[place] / (0.5 * ((1 + a) * out + (1 - a)))
        count = 0
        for z in range(25):
            general = 0.5 * ((1 + a) * elsewhere[:, z].mean() + (1 - a))
            count += ratio / (population[z] / general) > gamma
        assert found[place] == pytest.approx(count / 25)


@given(st.floats(0.001, 0.999))
@pytest.mark.slow
def test_confidence_is_the_logit_of_the_probability(probability: float) -> None:
    found = confidence(np.array([-math.log(probability)]))[0]
    assert found == pytest.approx(math.log(probability) - math.log1p(-probability), abs=1e-9)


def test_a_certain_model_has_a_finite_confidence() -> None:
    assert confidence(np.zeros(1))[0] == pytest.approx(-math.log(1e-15))


def test_scores_without_a_difference_are_at_chance() -> None:
    generator = np.random.default_rng(4)
    values = generator.normal(size=(32, 4000))
    included = np.arange(32)[:, None] % 2 == np.arange(4000)[None] % 2
    target = generator.normal(size=4000)
    for score in (likelihood_ratio, offline_likelihood_ratio):
        found = score(target, values, included)
        assert auroc(found[:2000], found[2000:]).low < 0.5 < auroc(found[:2000], found[2000:]).high
