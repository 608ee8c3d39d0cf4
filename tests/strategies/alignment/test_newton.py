"""GNS against algorithm 1 of the paper with whole Hessians in one place, and against descent."""

from __future__ import annotations

import copy
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from atoll.errors import InvalidExperimentError
from atoll.platform.run_directory.state_tree import StateDecoder, StateEncoder
from atoll.strategies import GNS, build_strategy
from tests.strategies.heterogeneity import test_against_plain_loops
from tests.support.strategies.small_federation import (
    LAYOUTS,
    SmallFederation,
    hex_of,
    make_federation,
    values,
)

pytestmark = pytest.mark.slow

LAYOUT = LAYOUTS["several domains on a client"]
LOGISTIC = f"{test_against_plain_loops.__name__}:logistic_regression"


class Centralised:
    """The mean cross-entropy as a function of the head's parameters, all examples in one place."""

    def __init__(self, federation: SmallFederation) -> None:
        self.model = copy.deepcopy(federation.model)
        self.images = torch.cat([part[0] for part in federation.data.values()])
        self.labels = torch.cat([part[1] for part in federation.data.values()])
        with torch.no_grad():
            seen: list[Tensor] = []
            head: Any = self.model.head
            handle = head.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
            self.model(self.images)
            handle.remove()
        ones = torch.ones(len(self.images), 1).double()
        self.inputs = torch.cat([seen[0], ones], 1)
        self.start = torch.cat([head.weight, head.bias[:, None]], 1).detach().reshape(-1)
        self.outputs = len(head.bias)

    def loss(self, head: Tensor) -> Tensor:
        return F.cross_entropy(self.inputs @ head.view(self.outputs, -1).mT, self.labels)

    def gradient(self, head: Tensor) -> Tensor:
        at = head.detach().requires_grad_()
        return torch.autograd.grad(self.loss(at), at)[0]

    def hessian(self, head: Tensor) -> Tensor:
        return torch.autograd.functional.hessian(self.loss, head)  # type: ignore[no-any-return, no-untyped-call]


def algorithm(problem: Centralised, rounds: int, gamma: float) -> tuple[list[Tensor], list[float]]:
    """Return the heads and the gammas of the paper's algorithm 1 with adaptive search."""
    head, heads, gammas = problem.start, [], []
    for _ in range(rounds):
        gradient, hessian = problem.gradient(head), problem.hessian(head)
        while True:
            penalty = gradient.norm() / (gamma + 1e-8)
            move = torch.linalg.solve(hessian + penalty * torch.eye(len(head)).double(), -gradient)
            after = problem.gradient(head + move).norm() ** 2
            if problem.loss(head) - problem.loss(head + move) >= after / (8 * penalty):
                break
            gamma /= 2
        gammas.append(gamma)
        gamma *= 2
        head = head + move
        heads.append(head)
    return heads, gammas


def head_of(arrays: Any) -> Tensor:
    found = {key: torch.from_numpy(value.copy()) for key, value in values(arrays).items()}
    return torch.cat([found["head.weight"], found["head.bias"][:, None]], 1).reshape(-1)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("smoothness", [1.0, 1e5])
def test_rounds_are_steps_of_the_papers_algorithm(
    layout: str, smoothness: float, tmp_path: Path
) -> None:
    federation = make_federation(tmp_path, LAYOUTS[layout])
    expected, gammas = algorithm(Centralised(federation), 3, smoothness)
    strategy, arrays = GNS(smoothness=smoothness, products=100), federation.arrays
    found = []
    for number, wanted in enumerate(expected, 1):
        arrays, metrics = federation.round(strategy, number, arrays)
        found.append(metrics["smoothness"])
        # A regularisation of 1e-6 multiplies rounding by 1e6.
        torch.testing.assert_close(head_of(arrays), wanted, rtol=1e-6, atol=1e-7)
    assert found == gammas
    # Some trial was refused where the first gamma is too large.
    assert (gammas[0] < smoothness) == (smoothness == 1e5)
    before = values(federation.arrays)
    for key, value in values(arrays).items():
        assert np.array_equal(value, before[key]) == (not key.startswith("head"))


def test_the_head_of_a_convex_problem_needs_a_tenth_of_the_rounds_of_descent(
    tmp_path: Path,
) -> None:
    federation = make_federation(tmp_path, LAYOUT, model=LOGISTIC)
    problem = Centralised(federation)
    strategy, arrays, losses = GNS(products=10), federation.arrays, []
    for number in range(1, 16):
        arrays, metrics = federation.round(strategy, number, arrays)
        losses.append(metrics["head_loss"])
    head, steps = problem.start, 0
    # The largest step by which descent is sure to descend: 1/L.
    inputs = problem.inputs
    rate = 1 / float(torch.linalg.eigvalsh(inputs.mT @ inputs / len(inputs))[-1] / 2)
    while problem.loss(head) > losses[-1] and steps < 10 * len(losses):
        head, steps = head - rate * problem.gradient(head), steps + 1
    assert steps >= 10 * len(losses)
    assert losses == sorted(losses, reverse=True)


def test_few_products_descend_too(tmp_path: Path) -> None:
    losses = {}
    for products in (1, 3, 30):
        federation = make_federation(tmp_path / str(products), LAYOUT, model=LOGISTIC)
        strategy, arrays = GNS(products=products), federation.arrays
        for number in range(1, 6):
            arrays, metrics = federation.round(strategy, number, arrays)
            assert metrics["accepted"] == 1.0
        losses[products] = float(Centralised(federation).loss(head_of(arrays)))
    assert losses[30] <= losses[3] < losses[1] < math.log(3) + 1


def test_a_model_at_its_optimum_stays(tmp_path: Path) -> None:
    federation = make_federation(tmp_path, [{"photo": 4}, {"photo": 4}], model=f"{__name__}:zeros")
    arrays, metrics = federation.round(GNS())
    assert metrics["accepted"] == 0.0
    assert hex_of(arrays) == hex_of(federation.arrays)


def test_a_strategy_continues_from_a_checkpoint(tmp_path: Path) -> None:
    federation, first = make_federation(tmp_path, LAYOUT), GNS()
    arrays, _ = federation.round(first)
    encoder = StateEncoder()
    tree = encoder.attributes(first, "strategy")
    assert encoder.skipped == []
    whole, metrics = federation.round(first, 2, arrays)
    second = GNS()
    StateDecoder(encoder.arrays).restore_attributes(second, tree)
    assert hex_of(federation.round(second, 2, arrays)[0]) == hex_of(whole)
    # A new strategy begins with a shorter step.
    _, of_new = federation.round(GNS(), 2, arrays)
    assert of_new["smoothness"] < metrics["smoothness"]


class Zeros(nn.Module):
    """A head whose inputs are zeros, and which has no bias: its gradient is zero."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.head = nn.Linear(inputs, outputs, bias=False).double()

    def forward(self, images: Tensor) -> Tensor:
        return self.head(0.0 * images.double().flatten(1))


def zeros(image_shape: tuple[int, int, int], classes: int) -> nn.Module:
    return Zeros(math.prod(image_shape), classes)


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        ({"smoothness": 0.0}, "strategy.smoothness = 0.0: expected"),
        ({"products": 0}, "strategy.products = 0: expected"),
        ({"server_learning_rate": 0.5}, "strategy.name = 'GNS': its step has no learning rate"),
        ({"client_update": "cotangent"}, "strategy.client_update = 'cotangent': expected"),
    ],
)
def test_what_has_no_meaning_is_refused_in_a_line(arguments: dict[str, Any], problem: str) -> None:
    with pytest.raises(InvalidExperimentError) as refused:
        build_strategy("GNS", arguments)
    assert problem in str(refused.value)
    assert "\n" not in str(refused.value)
