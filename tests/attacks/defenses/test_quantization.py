import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from atoll.attacks.defenses.base.defense import Task
from atoll.attacks.defenses.quantization import (
    NearestQuantization,
    Quantization,
    Sign,
    common_step,
)
from tests.support.attacks.one_step import a_model, a_step, a_task, flat, gradient


def test_signs_are_kept_and_each_tensor_has_one_size() -> None:
    step = a_step(a_model())
    plain = gradient(a_task(step))
    for before, after in zip(plain, Sign().apply(a_task(step), gradient), strict=True):
        assert torch.equal(after.sign(), before.sign())
        sizes = after[after != 0].abs()
        torch.testing.assert_close(sizes, before.abs().mean().expand(len(sizes)))


def test_values_become_multiples_of_the_norm_by_the_levels() -> None:
    step = a_step(a_model())
    plain = gradient(a_task(step))
    for values, rounded in zip(
        plain, Quantization(levels=4).apply(a_task(step), gradient), strict=True
    ):
        multiples = rounded / (values.norm() / 4)
        torch.testing.assert_close(multiples, multiples.round(), rtol=0, atol=1e-4)
        assert (rounded - values).abs().max() <= values.norm() / 4 * (1 + 1e-5)


def test_random_rounding_is_unbiased() -> None:
    values = torch.linspace(-1, 1, 11)
    torch.manual_seed(0)
    task = Task([values])
    mean = torch.stack(
        [Quantization(levels=2).apply(task, lambda task: [values])[0] for _ in range(4000)]
    ).mean(0)
    # Four deviations of a mean of 4000 roundings by at most a step.
    assert (mean - values).abs().max() < 4 * float(values.norm()) / 2 / 2 / 4000**0.5


@given(
    st.lists(st.integers(-16, 16), min_size=1, max_size=30).filter(any),
    st.floats(1e-4, 10.0),
)
def test_the_step_that_all_values_are_multiples_of(numbers: list[int], step: float) -> None:
    values = torch.tensor(numbers, dtype=torch.float32) * step
    divisor = int(torch.gcd(torch.tensor(numbers), torch.tensor(0)).max())
    for number in numbers:
        divisor = int(torch.gcd(torch.tensor(divisor), torch.tensor(number)))
    assert common_step(values) == pytest.approx(divisor * step, rel=1e-3)


def test_zeros_have_no_step() -> None:
    assert common_step(torch.zeros(3)) == 0.0
    estimate = NearestQuantization.estimate([torch.zeros(3)], torch.nn.Identity())
    assert flat(NearestQuantization.mimic([torch.ones(3)], estimate)).tolist() == [0.0, 0.0, 0.0]


def test_only_rounding_to_the_nearest_can_be_mimicked() -> None:
    values = torch.linspace(-1, 1, 11)
    task = Task([values])
    sent = NearestQuantization(levels=2).apply(task, lambda task: [values])
    estimate = NearestQuantization.estimate(sent, torch.nn.Identity())
    torch.testing.assert_close(NearestQuantization.mimic([values], estimate)[0], sent[0])
    assert NearestQuantization.is_mimicked
    assert not Quantization.is_mimicked
    assert torch.equal(Quantization.mimic([values], estimate)[0], values)
