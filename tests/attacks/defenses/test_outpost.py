import torch
from one_step import a_model, a_step, a_task, flat, gradient

from atoll.attacks.defenses.outpost import Outpost, risk_of


def test_it_acts_where_the_published_code_does_not() -> None:
    step = a_step(a_model())
    plain = gradient(a_task(step))
    defended = Outpost(decay=0.0).apply(a_task(step), gradient)
    threshold = flat(plain).abs().quantile(0.6)
    for before, after, parameter in zip(plain, defended, step.parameters, strict=True):
        small = before.abs() < threshold * (1 - 1e-6)
        quiet = after[small]
        assert torch.equal(quiet[quiet != 0], before[small][quiet != 0])
        noise = (after - before)[before.abs() > threshold * (1 + 1e-6)]
        if len(noise) > 400:
            pruned = (before * (after == 0))[before.abs() > threshold * (1 + 1e-6)]
            spread = (noise + pruned).std() / (0.8 * parameter.var())
            assert 0.8 < float(spread) < 1.6
    assert any((a == 0).float().mean() > 0.4 for a in defended)


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
