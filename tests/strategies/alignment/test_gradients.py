"""The methods that combine domains' gradients on the server, against plain torch."""

from __future__ import annotations

import copy
import logging
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from atoll.strategies import build_strategy
from tests.support.strategies import centralised as c
from tests.support.strategies.small_federation import (
    LAYOUTS,
    SmallFederation,
    make_federation,
    values,
)

RATE, ROUNDS = 0.05, 3
Step = Callable[[nn.Module, torch.optim.Optimizer], None]


def gradients_at(model: nn.Module, federation: SmallFederation) -> list[list[Tensor]]:
    domains = c.make_domains(model, federation.data)
    parameters = list(model.parameters())
    return [list(torch.autograd.grad(domain.loss, parameters)) for domain in domains]


def and_mask(federation: SmallFederation, mask: Callable[[Tensor], Tensor]) -> Step:
    def step(model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        found = gradients_at(model, federation)
        for place, p in enumerate(model.parameters()):
            stacked = torch.stack([g[place] for g in found])
            kept = mask(stacked)
            p.grad = kept * stacked.mean(0) / (1e-10 + kept.sum() / kept.numel())
        optimizer.step()

    return step


def sand(stacked: Tensor) -> Tensor:
    agreement = stacked.sign().mean(0).abs() - 0.5
    return torch.tanh(10 / stacked.var(0) * agreement).clamp_min(0)


def fish(federation: SmallFederation) -> Step:
    def step(model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        start = copy.deepcopy(model.state_dict())
        for place in range(3):
            found = gradients_at(model, federation)[place]
            for p, g in zip(model.parameters(), found, strict=True):
                p.grad = g
            optimizer.step()
        moved = model.state_dict()
        model.load_state_dict({k: v + 0.5 * (moved[k] - v) for k, v in start.items()})

    return step


def mldg(federation: SmallFederation) -> Step:
    def step(model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        names = sorted(federation.data)
        order = random.sample(names, 3)
        train, test = order[0], order[1]
        found = gradients_at(model, federation)
        ahead = copy.deepcopy(model)
        fresh = torch.optim.Adam(ahead.parameters(), RATE)
        for p, g in zip(ahead.parameters(), found[names.index(train)], strict=True):
            p.grad = g
        fresh.step()
        there = gradients_at(ahead, federation)[names.index(test)]
        own = found[names.index(train)]
        for p, a, b in zip(model.parameters(), own, there, strict=True):
            p.grad = (a + 0.7 * b) / 3
        optimizer.step()

    return step


CASES: dict[str, tuple[str, dict[str, Any], Callable[[SmallFederation], Step]]] = {
    "AND-mask": (
        "ANDMask",
        {"tau": 1.0},
        lambda f: and_mask(f, lambda g: (g.sign().mean(0).abs() >= 1.0).double()),
    ),
    "SAND-mask": ("SANDMask", {"tau": 0.5}, lambda f: and_mask(f, sand)),
    "Fish": ("Fish", {}, fish),
    "MLDG": ("MLDG", {"beta": 0.7}, mldg),
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("case", CASES)
def test_three_rounds_are_three_centralised_steps_of_torchs_adam(
    case: str, layout: str, tmp_path: Path
) -> None:
    name, arguments, reference = CASES[case]
    federation = make_federation(tmp_path, LAYOUTS[layout])
    strategy = build_strategy(name, {**arguments, "server_learning_rate": RATE})
    random.seed(4)
    arrays = federation.arrays
    for number in range(1, ROUNDS + 1):
        # The nodes of a round are sampled from the same generator as MLDG's domains.
        arrays, metrics = federation.round(strategy, number, arrays)
    assert metrics["loss"] > 0.0
    random.seed(4)
    model = copy.deepcopy(federation.model)
    optimizer, step = torch.optim.Adam(model.parameters(), RATE), reference(federation)
    for _ in range(ROUNDS):
        random.sample(federation.grid.get_node_ids(), len(federation.grid.get_node_ids()))
        step(model, optimizer)
    for key, value in model.state_dict().items():
        np.testing.assert_allclose(values(arrays)[key], value.numpy(), rtol=0, atol=1e-9)
        assert np.abs(values(arrays)[key] - values(federation.arrays)[key]).max() > 1e-4


def test_no_client_trains_and_the_l2_term_is_in_the_step(tmp_path: Path) -> None:
    federation = make_federation(tmp_path, LAYOUTS["domains split over unequal clients"])
    arguments = {"tau": 0.0, "server_optimizer": "sgd", "server_learning_rate": 1.0, "l2": 0.1}
    after, _ = federation.round(build_strategy("ANDMask", arguments))
    assert {m.metadata.message_type for m in federation.grid.sent} == {"query.moments"}
    expected = c.objective_gradient(
        federation.model, federation.data, c.none, 0.0, "uniform", l2=0.1
    )
    for key, value in expected.items():
        moved = values(federation.arrays)[key] - values(after)[key]
        np.testing.assert_allclose(moved, value.numpy(), atol=1e-9)


@pytest.mark.parametrize("name", ["ANDMask", "SANDMask", "MLDG", "Fish"])
@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_a_round_of_one_domain_is_erms_and_is_warned_of_once(
    name: str, optimizer: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    federation = make_federation(tmp_path, LAYOUTS["one client a domain"])
    step = {"server_optimizer": optimizer, "server_learning_rate": RATE}
    strategy = build_strategy(name, step)
    federation.grid.get_node_ids = lambda: [2]  # type: ignore[method-assign]
    with caplog.at_level(logging.WARNING, logger="atoll"):
        after, metrics = federation.round(strategy)
        federation.round(strategy, 2, after)
    assert caplog.text.count(f"{name} has nothing to align in rounds whose clients hold only") == 1
    expected, known = federation.round(build_strategy("ERM", {**step, "client_update": "gradient"}))
    assert metrics["loss"] == pytest.approx(known["loss"])
    # Fish goes part of the way, as it does after more domains.
    share = 0.5 if name == "Fish" else 1.0
    for key, value in values(expected).items():
        before = values(federation.arrays)[key]
        np.testing.assert_allclose(values(after)[key] - before, share * (value - before), atol=1e-9)
    del federation.grid.get_node_ids
    federation.round(strategy, 3, after)
