import pytest
import torch
from scipy import stats

from atoll.attacks.defenses.base.defense import Task
from atoll.attacks.defenses.noise import GaussianNoise
from tests.support.attacks.one_step import a_model, a_step, a_task, flat, gradient


def test_the_noise_is_normal_of_the_given_deviation() -> None:
    step = a_step(a_model())
    added = flat(GaussianNoise(std=0.05).apply(a_task(step), gradient)) - flat(
        gradient(a_task(step))
    )
    assert len(added) > 20_000
    assert stats.kstest(added.numpy() / 0.05, "norm").pvalue > 1e-3


@pytest.mark.parametrize("std", [0.1, 1.0])
def test_the_attacker_estimates_the_deviation(std: float) -> None:
    step = a_step(a_model())
    observed = GaussianNoise(std=std).apply(a_task(step), gradient)
    estimate = GaussianNoise.estimate(observed, step.model)
    assert estimate.figures["std"] == pytest.approx(std, rel=0.05)


def test_noise_is_drawn_anew_for_each_task() -> None:
    step = a_step(a_model())
    torch.manual_seed(0)
    first, second = (
        flat(GaussianNoise().apply(Task(step.parameters, 1, step), gradient)) for _ in range(2)
    )
    assert not torch.equal(first, second)
