"""Step rules against torch.optim, one candidate at a time."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from atoll.attacks.optim.step_rules import LBFGS, Adam, Langevin, SignedAdam, StepRule

START = torch.tensor([[-1.2, 1.0, 0.3], [0.5, -0.7, 2.0], [3.0, 2.0, -1.0]])


def cost(x: Tensor) -> Tensor:
    """A narrow curved valley (Rosenbrock's), and a bowl: shape (..., 3) to (...)."""
    a, b, c = x.unbind(-1)
    return (1 - a) ** 2 + 5 * (b - a**2) ** 2 + (c + 1) ** 2


def stacked(rule: StepRule, steps: int, factor: float = 1.0) -> Tensor:
    # In two variables: a candidate is all of its row.
    values = [START[:, :1].clone().requires_grad_(), START[:, 1:].clone().requires_grad_()]
    for _ in range(steps):
        gradients = torch.autograd.grad(cost(torch.cat(values, 1)).sum(), values)
        with torch.no_grad():
            rule.step(values, gradients, factor)
    return torch.cat(values, 1).detach()


def one_by_one(make, steps: int, change=lambda g: g) -> Tensor:  # type: ignore[no-untyped-def]
    ends = []
    for start in START:
        x = start.clone().requires_grad_()
        optimizer = make([x])

        def closure(x: Tensor = x) -> Tensor:
            loss = cost(x)
            x.grad = change(torch.autograd.grad(loss, x)[0])
            return loss

        for _ in range(steps):
            optimizer.step(closure)
        ends.append(x.detach())
    return torch.stack(ends)


def test_lbfgs_is_torchs_for_every_candidate() -> None:
    def make(x: list[Tensor]) -> torch.optim.Optimizer:
        return torch.optim.LBFGS(
            x, lr=1.0, max_iter=1, history_size=100, tolerance_grad=0.0, tolerance_change=0.0
        )

    for steps in (1, 2, 5, 9):
        torch.testing.assert_close(
            stacked(LBFGS(1.0), steps), one_by_one(make, steps), rtol=1e-3, atol=1e-4
        )


def test_lbfgs_reaches_each_candidates_minimum() -> None:
    found = stacked(LBFGS(0.5), 80)
    torch.testing.assert_close(found, torch.tensor([[1.0, 1.0, -1.0]] * 3), rtol=0, atol=1e-3)


def test_lbfgs_leaves_a_candidate_that_is_not_finite_and_moves_the_others() -> None:
    rule, values = LBFGS(1.0), [START.clone()]
    gradient = torch.ones_like(START)
    gradient[1] = torch.nan
    rule.step(values, [gradient], 1.0)
    assert torch.equal(values[0][1], START[1])
    assert (values[0][[0, 2]] != START[[0, 2]]).all()


@pytest.mark.parametrize("factor", [1.0, 0.3])
def test_adam_and_its_signed_form(factor: float) -> None:
    def make(x: list[Tensor]) -> torch.optim.Optimizer:
        return torch.optim.Adam(x, lr=0.1 * factor)

    torch.testing.assert_close(stacked(Adam(0.1), 7, factor), one_by_one(make, 7))
    torch.testing.assert_close(stacked(SignedAdam(0.1), 7, factor), one_by_one(make, 7, torch.sign))


def test_langevin_noise_has_its_size_and_is_each_candidates_own() -> None:
    def noised(seeds: list[int]) -> Tensor:
        generators = [torch.Generator().manual_seed(seed) for seed in seeds]
        values = [torch.zeros(len(seeds), 4000)]
        rule = Langevin(Adam(0.1), 0.5, 0.1, generators)
        rule.step(values, [torch.zeros(len(seeds), 4000)], 0.5)
        return values[0]

    noise = noised([1, 2, 3])
    assert noise.std() == pytest.approx(0.5 * 0.1 * 0.5, rel=0.05)
    assert torch.equal(noised([3])[0], noise[2])
