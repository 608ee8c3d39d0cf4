from __future__ import annotations

import pytest
import torch

from atoll.attacks.methods.generative.gias import GIAS
from tests.support.attacks.digit_generator import (
    TINY_STYLEGAN2,
    digit_generator,
    observed,
    psnr_of,
    victim,
)


@pytest.mark.slow
def test_weights_find_what_the_latent_cannot_and_stay_each_victims_own() -> None:
    folder = digit_generator()
    victims = [victim([3], 1), victim([7], 2)]
    attack = GIAS.model_validate(
        {
            "generator": "digits",
            "generator_path": folder,
            "latent_steps": 30,
            "weight_steps": 30,
            "restarts": 2,
        }
    )
    observations = observed(attack, victims)
    generator = attack.generator_for(observations[0])
    before = {name: value.clone() for name, value in generator.state_dict().items()}
    found = attack.run_checked(observations, seed=1)
    for one, (_, truth) in zip(found, victims, strict=True):
        latent, weights = one.stages
        assert (latent.name, weights.name) == ("latent", "weights")
        assert weights.cost < 0.9 * latent.cost
        assert one.cost == weights.cost
        assert psnr_of(one.images, truth) > 10
    assert all(torch.equal(value, before[name]) for name, value in generator.state_dict().items())


def test_weights_that_make_no_difference_are_left_out() -> None:
    attack = GIAS.model_validate(
        {
            "generator": TINY_STYLEGAN2,
            "latent_steps": 3,
            "weight_steps": 3,
        }
    )
    [one] = attack.run_checked(observed(attack, [victim([3])]), seed=1)
    assert one.cost < one.stages[0].cost
