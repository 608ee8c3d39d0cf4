import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from atoll.attacks.defenses.orthogonal import OrthogonalGradient, orthogonal_to
from tests.support.attacks.one_step import a_model, a_step, a_task, flat, gradient


@given(st.integers(0, 2**32), st.floats(-4, 4), st.integers(2, 50))
def test_directions_are_orthogonal_whatever_the_gradients_norm(
    seed: int, exponent: float, size: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    g = torch.randn(size, generator=generator) * 10.0**exponent
    [n] = orthogonal_to([g], [torch.randn(size, generator=generator)])
    assert abs(float(torch.cosine_similarity(n, g, dim=0))) < 1e-5
    assert float(n.norm()) == pytest.approx(float(g.norm()), rel=1e-4)


def test_what_is_sent_is_orthogonal_and_lowers_the_loss_most() -> None:
    step = a_step(a_model())
    plain = gradient(a_task(step))
    defense = OrthogonalGradient(trials=30, learning_rate=1e-2)
    sent = defense.apply(a_task(step), gradient)
    for n, g in zip(sent, plain, strict=True):
        assert abs(float(torch.cosine_similarity(n.flatten(), g.flatten(), dim=0))) < 1e-5
        torch.testing.assert_close(n.norm(), g.norm())

    def loss_after(direction: list[torch.Tensor]) -> float:
        moved = [p - 1e-2 * d for p, d in zip(step.parameters, direction, strict=True)]
        names = [name for name, _ in step.model.named_parameters()]
        logits = torch.func.functional_call(
            step.model, dict(zip(names, moved, strict=True)), (step.images,)
        )
        return float(torch.nn.functional.cross_entropy(logits, step.labels).detach())

    one_trial = OrthogonalGradient(trials=1, learning_rate=1e-2)
    others = [loss_after(one_trial.apply(a_task(step, seed=s), gradient)) for s in range(10)]
    assert loss_after(sent) < sorted(others)[5]


def test_it_stops_after_its_rounds() -> None:
    step = a_step(a_model("linear"))
    plain = flat(gradient(a_task(step)))
    assert torch.equal(flat(OrthogonalGradient(rounds=3).apply(a_task(step, 4), gradient)), plain)
    always = OrthogonalGradient(rounds=None).apply(a_task(step, 99), gradient)
    assert not torch.equal(flat(always), plain)


def test_the_attackers_copy_equals_what_was_sent_for_the_true_gradient() -> None:
    step = a_step(a_model())
    plain = gradient(a_task(step))
    sent = OrthogonalGradient().apply(a_task(step), gradient)
    estimate = OrthogonalGradient.estimate(sent, step.model)
    torch.testing.assert_close(
        flat(OrthogonalGradient.mimic(plain, estimate)), flat(sent), rtol=1e-4, atol=1e-6
    )
    wrong = [g + s for g, s in zip(plain, sent, strict=True)]
    assert not torch.allclose(flat(OrthogonalGradient.mimic(wrong, estimate)), flat(sent))
