import pytest
import torch

from atoll.attacks.defenses.outpost import Outpost, risk_of
from tests.support.attacks.one_step import a_model, a_step, a_task, flat, gradient


def test_it_acts_where_the_published_code_does_not() -> None:
    """The noise of each layer has its risk's deviation, and is where squares are largest."""
    step = a_step(a_model())
    plain = gradient(a_task(step))
    threshold = float(flat(plain).abs().quantile(0.6))
    defended = Outpost(decay=0.0, pruned=1e-9).apply(a_task(step), gradient)
    for before, after, parameter in zip(plain, defended, step.parameters, strict=True):
        is_large = before.abs() > threshold
        noise = (after - before)[is_large]
        assert (after - before)[~is_large].count_nonzero() <= 1
        if len(noise) > 400:
            spread = float(noise.std() / parameter.detach().var())
            assert spread == pytest.approx(0.8, rel=0.15)


def test_without_noise_it_is_top_k() -> None:
    step = a_step(a_model())
    defended = Outpost(noise=0.0, pruned=0.8, decay=0.0).apply(a_task(step), gradient)
    shares = [float((values != 0).float().mean()) for values in defended if values.numel() > 100]
    assert max(shares) <= 0.21


def test_it_acts_less_and_less_often() -> None:
    step = a_step(a_model("linear"))
    plain = flat(gradient(a_task(step)))
    rates = []
    for server_round in (1, 24):
        acted = [
            not torch.equal(
                flat(Outpost().apply(a_task(step, server_round, seed), gradient)), plain
            )
            for seed in range(200)
        ]
        rates.append(sum(acted) / len(acted))
    # 1 / (1 + t / 8): 0.889 and 0.25; four deviations of 200 draws.
    assert abs(rates[0] - 8 / 9) < 0.09
    assert abs(rates[1] - 0.25) < 0.123


def test_risk_is_the_variance_up_to_one() -> None:
    assert float(risk_of(torch.tensor([0.0, 1.0]))) == 0.5
    assert float(risk_of(torch.tensor([-9.0, 9.0]))) == 1.0
    assert float(risk_of(torch.tensor([3.0]))) == 0.0
