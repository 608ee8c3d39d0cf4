"""The loop of the attacks that optimise."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from atoll.attacks.optim.minimize import GradientRegularization, minimize
from atoll.attacks.optim.step_rules import Adam
from atoll.attacks.optim.step_size_schedules import constant, cosine, ramp, thirds_of_eight


def bowl(values: list[Tensor]) -> tuple[Tensor, Tensor]:
    matching = (values[0] - 2).square().sum(1)
    return matching + 1.0, matching


def test_the_best_of_each_candidate_is_kept_with_its_own_cost() -> None:
    class Wandering:
        """Goes through 2 and on, at a pace of its own."""

        def step(self, values, gradients, factor) -> None:  # type: ignore[no-untyped-def]
            values[0] += torch.tensor([[1.0], [0.5]])

    found = minimize(bowl, [torch.zeros(2, 3)], Wandering(), 6)
    torch.testing.assert_close(found.values[0], torch.full((2, 3), 2.0))
    torch.testing.assert_close(found.costs, torch.ones(2))
    torch.testing.assert_close(found.matching, torch.zeros(2))
    assert found.path.shape == (2, 7)
    torch.testing.assert_close(found.path[0, :3], torch.tensor([12.0, 3.0, 0.0]))


def test_a_candidate_that_is_lost_keeps_what_it_had_and_does_not_harm_others() -> None:
    def broken_later(values: list[Tensor]) -> tuple[Tensor, Tensor]:
        total, matching = bowl(values)
        is_lost = torch.tensor([values[0][0, 0].item() > 0.15, False])
        return torch.where(is_lost, torch.nan, total), matching

    found = minimize(broken_later, [torch.zeros(2, 1)], Adam(0.1), 40)
    alone = minimize(bowl, [torch.zeros(1, 1)], Adam(0.1), 40)
    assert 0.0 < found.values[0][0, 0] <= 0.15
    torch.testing.assert_close(found.values[0][1:], alone.values[0])


def test_it_ends_when_all_match_and_projects_and_reports() -> None:
    seen: list[int] = []
    found = minimize(bowl, [torch.zeros(2, 1)], Adam(0.1), 500, tolerance=0.5, on_step=seen.append)
    assert found.steps < 100
    assert found.steps % 10 == 0
    assert seen == list(range(1, found.steps + 1))

    def below_one(values: list[Tensor]) -> None:
        values[0].clamp_(max=1.0)

    kept = minimize(bowl, [torch.zeros(2, 1)], Adam(0.1), 50, project=below_one)
    torch.testing.assert_close(kept.values[0], torch.ones(2, 1))


def test_schedules_have_the_values_of_their_papers() -> None:
    assert [thirds_of_eight(s, 8) for s in (0, 2, 3, 5, 7)] == pytest.approx(
        [1, 1, 0.1, 0.01, 0.001]
    )
    assert ramp(0, 1000) == 0.0
    assert ramp(25, 1000) == pytest.approx(0.5)
    assert ramp(50, 1000) == pytest.approx(1.0)
    assert ramp(249, 1000) == pytest.approx(1.0, abs=1e-4)
    assert ramp(625, 1000) == pytest.approx(0.5 - 0.5 * math.cos(math.pi * 0.5))
    assert ramp(999, 1000) == pytest.approx(0.0, abs=1e-4)
    assert cosine(0, 1000) == pytest.approx(1 / 51)
    assert cosine(50, 1000) == pytest.approx(1.0)
    assert cosine(999, 1000) == pytest.approx(0.0, abs=1e-4)
    assert constant(7, 10) == 1.0


def test_gradient_regularization_descends_the_cost_and_the_norm_of_its_gradient() -> None:
    start = torch.tensor([[1.5, -0.5], [0.3, 2.0]])

    def objective(values: list[torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
        costs = (values[0].pow(4).sum(1) + values[0].prod(1).sin()).double()
        return costs, costs

    class Keep:
        """A rule that only looks."""

        seen: list[torch.Tensor] = []  # noqa: RUF012

        def step(
            self, values: list[torch.Tensor], gradients: Sequence[torch.Tensor], factor: float
        ) -> None:
            self.seen = [gradient.clone() for gradient in gradients]

    weight, radius = 0.4, 1e-3
    rule = Keep()
    minimize(
        objective,
        [start.double()],
        rule,
        1,
        regularization=GradientRegularization(weight, radius),
    )
    x = start.double().requires_grad_()
    total, _ = objective([x])
    [gradient] = torch.autograd.grad(total.sum(), x, create_graph=True)
    norms = gradient.norm(dim=1)
    # The step uphill has length radius * sqrt(2): two values a candidate.
    [of_norms] = torch.autograd.grad(norms.sum(), x)
    wanted = gradient.detach() + weight * radius * 2**0.5 * of_norms
    torch.testing.assert_close(rule.seen[0], wanted, rtol=0, atol=1e-4)
    assert (rule.seen[0] - gradient.detach()).abs().max() > 1e-3
