from __future__ import annotations

import numpy as np
import pytest
import torch

from atoll.attacks.methods.generative.generator_sample import GeneratorSample
from atoll.attacks.methods.generative.ggl import GGL, divergence
from atoll.clients.data.catalog.loading import load_dataset
from tests.support.attacks.digit_generator import (
    TINY_STYLEGAN2,
    digit_generator,
    observed,
    psnr_of,
    victim,
)


def ggl(**settings: object) -> GGL:
    given = {
        "generator": "digits",
        "generator_path": digit_generator(),
        "rounds": 30,
        "population": 12,
        "cost": "cosine",
        **settings,
    }
    return GGL.model_validate(given)


@pytest.mark.slow
def test_the_search_finds_latents_that_match_and_leaves_global_numbers_alone() -> None:
    victims = [victim([3], 1), victim([7], 2)]
    attack = ggl(kl=0.0)
    np.random.seed(0)
    expected = np.random.rand()
    np.random.seed(0)
    found = attack.run_checked(observed(attack, victims), seed=1)
    assert np.random.rand() == expected
    sample = GeneratorSample(generator="digits", generator_path=digit_generator(), restarts=8)
    drawn = sample.run_checked(observed(sample, victims), seed=1)
    for one, floor, (_, truth) in zip(found, drawn, victims, strict=True):
        assert one.cost < floor.cost
        assert one.cost_path[-1] < one.cost_path[0]
        assert torch.equal(one.labels, truth.labels)
    [again] = attack.run_checked(observed(attack, victims[:1]), seed=1)
    assert torch.equal(again.images, found[0].images)


def test_batches_are_searched_together() -> None:
    capture, truth = victim([3, 7])
    attack = ggl(rounds=3)
    told: list[int] = []
    [one] = attack.run_checked(
        observed(attack, [(capture, truth)]), progress=lambda done, total: told.append(done)
    )
    assert one.images.shape == truth.images.shape
    assert told == [1, 2, 3]


def test_squashed_latents_stay_below_one() -> None:
    attack = ggl(squash=True)
    [values] = attack.values_of(np.array([[100.0, -100.0, 0.5]]), [torch.Size([1, 1, 3])], "cpu")
    torch.testing.assert_close(values, torch.tensor([[[1.0, -1.0, 0.46211716]]]))


def test_divergence_is_that_of_the_fitted_gaussian() -> None:
    values = torch.randn(2, 3, 50, generator=torch.Generator().manual_seed(0)) * 2 + 1
    flat = values.flatten(1)
    fitted = torch.distributions.Normal(flat.mean(1), flat.std(1))
    expected = torch.distributions.kl_divergence(fitted, torch.distributions.Normal(0.0, 1.0))
    torch.testing.assert_close(divergence([values]), expected)


def test_a_sample_shows_what_its_label_says() -> None:
    victims = [victim([index], index) for index in range(1, 5)]
    attack = GeneratorSample(generator="digits", generator_path=digit_generator())
    first, second = (attack.run_checked(observed(attack, victims), seed=seed) for seed in (1, 2))
    for one, other, (_, truth) in zip(first, second, victims, strict=True):
        assert torch.equal(one.labels, truth.labels)
        assert not torch.equal(one.images, other.images)
        assert psnr_of(one.images, truth) > 5


def test_it_is_told_which_victims_the_generator_has_seen() -> None:
    attack = GeneratorSample(generator="digits", generator_path=digit_generator())
    capture, truth = victim([3])
    [observation] = observed(attack, [(capture, truth)])
    pixels = torch.from_numpy(load_dataset("digits").train.images[:2].copy())
    both = torch.cat([truth.pixels, pixels])
    assert attack.has_seen(observation, both) == [False, True, True]
    other = GeneratorSample(generator=TINY_STYLEGAN2)
    assert other.has_seen(observation, both) == [None, None, None]
