import itertools
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from atoll.clients.noprop.networks.diffusion import (
    evenly,
    loss_weights,
    prior_divergence,
    route,
    signal_levels,
    signal_to_noise,
    transition,
)

LEVEL = st.floats(0.0, 0.999)


@pytest.mark.parametrize("schedule", ["cosine", "linear"])
@pytest.mark.parametrize("steps", [1, 3, 10, 100])
def test_the_signal_grows_from_none_towards_one(schedule, steps):
    levels = signal_levels(steps, schedule)
    assert len(levels) == steps + 1
    assert levels[0] == 0.0
    assert 0.999 < levels[-1] < 1.0
    assert levels == sorted(set(levels))


def test_the_cosine_levels_are_those_of_its_formula_with_ten_steps():
    published = [0, 0.0241, 0.0940, 0.2031, 0.3408, 0.4938, 0.6474, 0.7868, 0.8986, 0.9719, 0.99984]
    assert signal_levels(10) == pytest.approx(published, abs=5e-5)


@pytest.mark.parametrize("steps", [1, 2, 10, 50])
def test_the_recurrence_has_its_three_identities(steps):
    levels = signal_levels(steps)
    for before, after in itertools.pairwise(levels):
        _check_identities(before, after)


@given(LEVEL, LEVEL)
def test_the_identities_hold_for_jumps_between_any_levels(one, other):
    start, end = sorted((one, other))
    if end - start > 1e-6:
        _check_identities(start, end)


def _check_identities(before, after):
    step = transition(before, after)
    assert abs(step.a + step.b * math.sqrt(before) - math.sqrt(after)) < 1e-10
    assert abs(step.b**2 * (1 - before) + step.c - (1 - after)) < 1e-10
    gained = signal_to_noise(after) - signal_to_noise(before)
    assert abs(step.a**2 / step.c - gained) <= 1e-10 * max(1.0, gained)


@given(st.lists(LEVEL, min_size=3, max_size=3, unique=True))
def test_two_steps_with_the_same_prediction_are_one_jump(levels):
    low, middle, high = sorted(levels)
    if middle - low < 1e-6 or high - middle < 1e-6:
        return
    first, second, jump = transition(low, middle), transition(middle, high), transition(low, high)
    assert second.a + second.b * first.a == pytest.approx(jump.a, abs=1e-9)
    assert second.b * first.b == pytest.approx(jump.b, abs=1e-9)
    assert second.b**2 * first.c + second.c == pytest.approx(jump.c, abs=1e-9)


def test_a_step_towards_noise_is_refused():
    with pytest.raises(ValueError, match="expected 0 <= start < end < 1"):
        transition(0.5, 0.4)
    with pytest.raises(ValueError, match="steps = 0: expected at least 1"):
        signal_levels(0)


def test_the_step_tends_to_the_drift_and_diffusion_of_the_stochastic_differential_equation():
    level, slope, prediction, z, small = 0.4, 0.7, 0.9, -0.3, 1e-7
    step = transition(level, level + slope * small)
    drift = slope * (
        prediction / (math.sqrt(level) * (1 - level)) - z * (1 / (2 * level) + 1 / (1 - level))
    )
    moved = (step.a * prediction + (step.b - 1) * z) / small
    assert moved == pytest.approx(drift, rel=1e-5)
    assert step.c / small == pytest.approx(slope / level, rel=1e-5)


def test_the_posterior_is_that_of_bayes_rule():
    """q(z_r | z_s, u) from the two Gaussians that q is defined by, by brute force on a grid."""
    start, end, u, z_s = 0.3, 0.7, 1.2, 0.4
    alpha = start / end
    grid = torch.linspace(-6, 6, 20001, dtype=torch.float64)
    log_density = -((grid - math.sqrt(end) * u) ** 2) / (2 * (1 - end))
    log_density = log_density - (z_s - math.sqrt(alpha) * grid) ** 2 / (2 * (1 - alpha))
    density = log_density.softmax(0)
    mean = float((density * grid).sum())
    step = transition(start, end)
    assert mean == pytest.approx(step.a * u + step.b * z_s, abs=1e-9)
    assert float((density * (grid - mean) ** 2).sum()) == pytest.approx(step.c, abs=1e-9)


def test_weights_are_positive_and_capped():
    levels = signal_levels(10)
    weights = loss_weights(levels, eta=0.1)
    assert all(weight > 0 for weight in weights)
    assert weights[-1] == pytest.approx(0.5 * 6399, rel=1e-3)
    assert max(loss_weights(levels, eta=0.1, cap=40.0)) == pytest.approx(0.5 * 40)


def test_the_divergence_from_the_prior_is_torchs():
    level, u = 0.3, torch.tensor([0.5, -1.0, 2.0], dtype=torch.float64)
    given_label = torch.distributions.Normal(level**0.5 * u, (1 - level) ** 0.5)
    prior = torch.distributions.Normal(torch.zeros_like(u), torch.ones_like(u))
    expected = torch.distributions.kl_divergence(given_label, prior).sum()
    assert prior_divergence(level, float(u @ u), 3) == pytest.approx(float(expected), abs=1e-12)
    assert prior_divergence(0.0, 4.0, 3) == 0.0


def test_a_route_keeps_each_blocks_level_and_jumps_over_gaps():
    levels = signal_levels(4)
    assert route([1, 2, 3, 4], levels) == [
        (block, levels[block - 1], levels[block]) for block in (1, 2, 3, 4)
    ]
    assert route([1, 2, 4], levels)[1] == (2, levels[1], levels[3])
    assert route([1, 2], levels)[-1] == (2, levels[1], levels[4])
    assert route([3, 4], levels)[0] == (3, levels[0], levels[3])
    with pytest.raises(ValueError, match="expected some of 1 to 4, in order"):
        route([], levels)


@given(st.integers(1, 30), st.integers(1, 30))
def test_evenly_spread_blocks_are_so_many_and_begin_with_the_first(count, of):
    if count > of:
        with pytest.raises(ValueError, match="expected 1 to"):
            evenly(count, of)
        return
    chosen = evenly(count, of)
    assert len(set(chosen)) == count
    assert chosen[0] == 1
    assert chosen[-1] <= of
    gaps = [b - a for a, b in zip(chosen, [*chosen[1:], of + 1], strict=True)]
    assert max(gaps) - min(gaps) <= 1
