"""CT's blocks: equal parts of [0, 1], or ranges of noise that are equally probable."""

import itertools
import math

import numpy as np
import pytest
import torch

from atoll.clients.noprop.block_training.block_objective import BlockObjective
from atoll.clients.noprop.networks.inference import plan
from atoll.clients.noprop.networks.time_intervals import interval_edges, noise_cuts
from atoll.errors import InvalidExperimentError
from tests.support.clients.small_networks import Probe, parts, seeded

BLOCKS = 4
COUNT = 20_000


def made_of(seed=0, **arguments):
    return parts("noprop-ct", seed, blocks=BLOCKS, intervals="equal-probability", **arguments)


def log_noise(shared, times):
    """ln sigma, by the definition: sigma^2 = (1 - alpha_bar) / alpha_bar."""
    level = shared.schedule.level(torch.as_tensor(times, dtype=torch.float32)).double().detach()
    return (0.5 * torch.log((1 - level) / level)).numpy()


@pytest.mark.parametrize("blocks", [2, 3, 7])
def test_each_range_of_noise_has_the_same_share_of_the_log_normal(blocks):
    drawn = np.random.default_rng(0).normal(-1.2, 1.2, 400_000)
    drawn = drawn[np.abs(drawn) < 3.5]
    cuts = noise_cuts(blocks)
    assert cuts == sorted(cuts, reverse=True)
    shares, _ = np.histogram(drawn, [-3.5, *cuts[::-1], 3.5])
    np.testing.assert_allclose(shares / len(drawn), 1 / blocks, atol=4e-3)


def test_the_edges_are_the_times_of_that_noise_whatever_the_schedule_has_learned():
    for seed in range(5):
        made, shared = made_of(seed)
        with torch.no_grad():
            for parameter in shared.schedule.parameters():
                parameter.add_(0.3 * torch.randn_like(parameter))
        edges = interval_edges(made, shared)
        assert (edges[0], edges[-1]) == (0.0, 1.0)
        assert all(before < after for before, after in itertools.pairwise(edges))
        np.testing.assert_allclose(log_noise(shared, edges[1:-1]), noise_cuts(BLOCKS), atol=1e-4)


def test_noise_that_a_schedule_has_lost_is_at_its_end():
    made, shared = made_of()
    with torch.no_grad():
        # From e^0 to e^5.
        shared.schedule.gamma_0.fill_(-5.0)
        shared.schedule.raw_span.fill_(math.log(math.expm1(5.0)))
    edges = interval_edges(made, shared)
    # ln sigma = -0.39 is gamma = -0.78, and gamma falls from 0 to -5.
    assert edges == sorted(edges)
    assert edges[1] > 0.0
    with torch.no_grad():
        shared.schedule.gamma_0.fill_(-9.0)
    assert interval_edges(made, shared)[1:-1] == [0.0] * (BLOCKS - 1)


@pytest.mark.parametrize("index", range(BLOCKS))
def test_a_block_trains_on_the_noise_of_its_own_range(index):
    made, shared = made_of()
    probe = Probe(torch.zeros(COUNT, 10))
    labels, images = torch.zeros(COUNT, dtype=torch.int64), torch.zeros(COUNT, 1, 1, 1)
    objective = BlockObjective(made, index)
    objective(probe, shared, images, labels, objective.draw(shared, COUNT, seeded()))
    edges = interval_edges(made, shared)
    begin, end = edges[index : index + 2]
    times = probe.time.detach().double()
    assert begin <= float(times.min()) + 1e-6
    assert float(times.max()) <= end + 1e-6
    # Uniform within the interval.
    assert float(times.mean()) == pytest.approx((begin + end) / 2, abs=0.01 * (end - begin))
    noise = log_noise(shared, [float(times.min()), float(times.max())])
    cuts = [math.inf, *noise_cuts(BLOCKS), -math.inf]
    assert cuts[index] + 1e-3 >= noise[0] > noise[1] >= cuts[index + 1] - 1e-3


def test_inference_takes_as_many_steps_in_each_range():
    made, shared = made_of(steps=8)
    steps = plan(made, shared, range(BLOCKS))
    assert [step.block for step in steps] == [0, 0, 1, 1, 2, 2, 3, 3]
    edges = interval_edges(made, shared)
    assert [step.time for step in steps[::2]] == edges[:-1]
    middles = [(a + b) / 2 for a, b in itertools.pairwise(edges)]
    np.testing.assert_allclose([step.time for step in steps[1::2]], middles)
    for step, after in itertools.pairwise(steps):
        assert step.end == after.start
    levels = shared.schedule.level(torch.tensor([0.0, 1.0])).tolist()
    assert (steps[0].start, steps[-1].end) == pytest.approx(tuple(levels), rel=1e-4)
    # The second block's first step begins at the noise at which it takes over.
    level = steps[2].start
    cut = noise_cuts(BLOCKS)[0]
    assert 0.5 * math.log((1 - level) / level) == pytest.approx(cut, abs=1e-4)


def test_one_block_has_all_times_either_way_and_equal_parts_are_the_default():
    alone, shared = parts("noprop-ct", intervals="equal-probability")
    assert interval_edges(alone, shared) == [0.0, 1.0]
    equal, shared = parts("noprop-ct", blocks=4)
    assert interval_edges(equal, shared) == [0.0, 0.25, 0.5, 0.75, 1.0]


@pytest.mark.parametrize("name", ["noprop-dt", "noprop-fm"])
def test_only_ct_has_them(name):
    with pytest.raises(InvalidExperimentError, match="has no such argument"):
        parts(name, intervals="equal-probability")
    with pytest.raises(InvalidExperimentError, match="model.intervals = 'wide': expected 'equal'"):
        parts("noprop-ct", intervals="wide")
