"""EQRM's schedule: ERM with one learning rate, then the quantile with a new Adam and another."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import centralised as c
import numpy as np
import pytest
import torch
from small_federation import LAYOUTS, make_federation, values

from atoll.platform.state_tree import StateDecoder, StateEncoder
from atoll.strategies import build_strategy

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
