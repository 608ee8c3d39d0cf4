"""EQRM's schedule: ERM with one learning rate, then the quantile with a new Adam and another."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from atoll.platform.run_directory.state_tree import StateDecoder, StateEncoder
from atoll.strategies import build_strategy
from atoll.strategies.alignment.methods.reweighting import bisected_quantile, kernel_quantile
from tests.support.strategies import centralised as c
from tests.support.strategies.small_federation import LAYOUTS, make_federation, values

BURN_IN, RATE, QUANTILE_RATE = 2, 0.1, 0.003
ADAM = {
    "anneal_rounds": BURN_IN,
    "client_update": "gradient",
    "server_optimizer": "adam",
    "server_learning_rate": RATE,
}


@pytest.mark.parametrize("reset", [True, False])
def test_eqrm_changes_the_learning_rate_after_the_burn_in(reset: bool, tmp_path: Path) -> None:
    federation = make_federation(tmp_path, LAYOUTS["domains split over unequal clients"])
    arguments: dict[str, Any] = {
        **ADAM,
        "quantile_learning_rate": QUANTILE_RATE,
        "reset_optimizer": reset,
    }
    strategy = build_strategy("EQRM", arguments)
    model = copy.deepcopy(federation.model)
    optimizer = torch.optim.Adam(model.parameters(), RATE)
    arrays = federation.arrays
    for number in range(1, 6):
        if number == BURN_IN + 1:
            if reset:
                optimizer = torch.optim.Adam(model.parameters(), QUANTILE_RATE)
            optimizer.param_groups[0]["lr"] = QUANTILE_RATE
        penalty = c.none if number <= BURN_IN else c.quantile
        gradient = c.objective_gradient(model, federation.data, penalty, 1.0, "uniform")
        for name, parameter in model.named_parameters():
            parameter.grad = gradient[name]
        optimizer.step()
        if number == 4:
            # A resumed run has a new strategy object with the old one's state.
            encoder = StateEncoder()
            tree = json.loads(json.dumps(encoder.attributes(strategy, "strategy")))
            strategy = build_strategy("EQRM", arguments)
            StateDecoder(encoder.arrays).restore_attributes(strategy, tree)
        arrays, _ = federation.round(strategy, number, arrays)
        for key, value in model.state_dict().items():
            np.testing.assert_allclose(values(arrays)[key], value.numpy(), atol=1e-8)


def test_eqrm_has_the_published_rate_where_the_server_takes_steps_and_none_else() -> None:
    published = build_strategy("EQRM", ADAM)
    rates = [published.server_learning_rate_at(n) for n in (1, 2, 3)]  # type: ignore[attr-defined]
    assert rates == [RATE, RATE, 1e-6]
    one = build_strategy("EQRM", {**ADAM, "quantile_learning_rate": None})
    assert one.server_learning_rate_at(3) == RATE  # type: ignore[attr-defined]
    average = build_strategy("EQRM", {"anneal_rounds": 0})
    assert average.server_learning_rate_at(1) == 0.0  # type: ignore[attr-defined]


@pytest.mark.parametrize("name", ["GroupDRO", "AFL"])
def test_being_absent_does_not_change_a_domains_weight(name: str, tmp_path: Path) -> None:
    """At eta 0 nothing changes weights, whoever takes part; else, those of who does only."""
    federation = make_federation(tmp_path, LAYOUTS["one client a domain"])
    for eta in (0.0, 0.5):
        strategy = build_strategy(name, {"eta": eta})
        arrays, _ = federation.round(strategy)
        memory = strategy.memory  # type: ignore[attr-defined]
        absent = float(memory["sketch"])
        together = float(memory["art"] + memory["photo"])
        federation.grid.get_node_ids = lambda: [1, 2]  # type: ignore[method-assign]
        federation.round(strategy, 2, arrays)
        assert float(memory["sketch"]) == absent
        assert float(memory["art"] + memory["photo"]) == pytest.approx(together, rel=1e-12)
        assert (float(memory["art"]) == float(memory["photo"])) is (eta == 0.0)
        del federation.grid.get_node_ids


def test_a_loss_and_its_penalty_are_weighted_over_the_same_domains(tmp_path: Path) -> None:
    """With q = (.05, .05, .9) and the third absent, the others keep .05 of a whole of 2/3."""
    federation = make_federation(tmp_path, LAYOUTS["one client a domain"])
    strategy = build_strategy("GroupDRO", {"eta": 0.0, "stale_moments": True})
    arrays, _ = federation.round(strategy)
    q = {"photo": 0.05, "art": 0.05, "sketch": 0.9}
    memory = {name: torch.tensor(value, dtype=torch.float64) for name, value in q.items()}
    strategy.memory.update(memory)  # type: ignore[attr-defined]
    federation.grid.get_node_ids = lambda: [1, 2]  # type: ignore[method-assign]
    federation.grid.sent.clear()
    federation.round(strategy, 2, arrays)
    trained = [m for m in federation.grid.sent if m.metadata.message_type == "train"]
    counts = {"photo": 9, "art": 13}
    for message, (name, count) in zip(trained, counts.items(), strict=True):
        config = message.content["alignment"]
        assert config["domains"] == [name]
        weight = config["loss-weights"][0] * count / sum(counts.values())
        assert weight == pytest.approx(0.05 / (2 / 3), rel=1e-12)


def quantile_by_torch(values: list[float], alpha: float, *, released: bool) -> list[float]:
    """EQRM's quantile by bisection: its gradient through the ends, or by central differences."""

    def of(x: torch.Tensor) -> torch.Tensor:
        width = 1.06 * x.std() * len(x) ** -0.2
        normal = torch.distributions.Normal
        low = normal(x.min(), width).icdf(torch.tensor(alpha).double())
        high = normal(x.max(), width).icdf(torch.tensor(alpha).double())
        for _ in range(32 if released else 100):
            middle = (low + high) / 2
            if bool(normal(x, width).cdf(middle).mean() > alpha):
                high = middle
            else:
                low = middle
        return (low + high) / 2

    x = torch.tensor(values, dtype=torch.float64, requires_grad=True)
    if released:
        return torch.autograd.grad(of(x), x)[0].tolist()
    moved = torch.eye(len(values), dtype=torch.float64) * 1e-5
    with torch.no_grad():
        return [float(of(x + row) - of(x - row)) / 2e-5 for row in moved]


@pytest.mark.parametrize("released", [True, False])
@pytest.mark.parametrize("values_", [[0.3, 0.5, 0.9], [2.1, 0.4], [1.0, 0.2, 0.3, 0.25, 4.0]])
@pytest.mark.parametrize("alpha", [0.75, 0.1])
def test_eqrms_two_gradients_are_the_quantiles_own_and_the_bisections(
    alpha: float, values_: list[float], released: bool
) -> None:
    x = torch.tensor(values_, dtype=torch.float64, requires_grad=True)
    (found,) = torch.autograd.grad(
        (bisected_quantile if released else kernel_quantile)(x, alpha), x
    )
    expected = quantile_by_torch(values_, alpha, released=released)
    np.testing.assert_allclose(found.numpy(), expected, atol=1e-6)
    assert float(found.sum()) == pytest.approx(1.0)


def test_eqrms_gradients_at_the_losses_of_the_docs() -> None:
    x = torch.tensor([0.3, 0.5, 0.9], dtype=torch.float64, requires_grad=True)
    for quantile_of, expected in (
        (kernel_quantile, [-0.046, 0.267, 0.780]),
        (bisected_quantile, [0.173, -0.063, 0.890]),
    ):
        (found,) = torch.autograd.grad(quantile_of(x, 0.75), x)
        np.testing.assert_allclose(found.numpy(), expected, atol=6e-4)


@pytest.mark.parametrize("quantile_of", [kernel_quantile, bisected_quantile])
def test_the_same_loss_everywhere_has_a_gradient_too(quantile_of: Any) -> None:
    x = torch.full((4,), 2.3, dtype=torch.float64, requires_grad=True)
    (found,) = torch.autograd.grad(quantile_of(x, 0.75), x)
    np.testing.assert_allclose(found.numpy(), 0.25, atol=1e-6)
