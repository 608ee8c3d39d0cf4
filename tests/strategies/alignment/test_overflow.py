"""A penalty too large for the clients' numbers ends the round with its cause."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from atoll.errors import EngineError
from atoll.flower.arrays import array_record, to_array, view
from atoll.strategies import build_strategy
from tests.support.strategies.small_federation import LAYOUTS, make_federation

STEP = {
    "client_update": "gradient",
    "server_optimizer": "sgd",
    "server_learning_rate": 1e-3,
}


@pytest.mark.parametrize(
    ("name", "arguments", "statistic"),
    [
        ("IRM", {"anneal_rounds": 0}, "scale-gradient"),
        ("VREx", {"anneal_rounds": 0}, "loss"),
        ("GradientAlignment", {}, "head-gradient"),
        ("CORAL", {}, "feature-mean"),
        ("MMD", {}, "example-features"),
    ],
)
def test_a_gradient_that_overflows_is_an_error_that_names_it(
    name: str, arguments: dict[str, Any], statistic: str, tmp_path: Path
) -> None:
    federation = make_federation(tmp_path, LAYOUTS["one client a domain"], model="single_model")
    strategy = build_strategy(name, {**STEP, **arguments})
    # More than an experiment may ask for: the error stands behind that check.
    strategy.penalty_weight = 1e45
    with pytest.raises(EngineError) as caught:
        federation.round(strategy)
    told = str(caught.value)
    assert told.startswith(f"the gradient of {name}.penalty overflows float32 in round 1 (by ")
    assert f"(by {statistic!r} of domain" in told
    assert told.endswith("expected a smaller strategy.penalty_weight")


@pytest.mark.parametrize(
    ("name", "weight", "said"),
    [("IRM", 1e33, r"e\+\d\d of scale-gradient"), ("VREx", 1e36, r"e\+\d\d of loss")],
)
@pytest.mark.parametrize("update", [STEP, {}], ids=["gradient", "cotangent"])
def test_a_client_whose_step_overflows_says_that_it_was_the_penalty(
    update: dict[str, Any], name: str, weight: float, said: str, tmp_path: Path
) -> None:
    federation = make_federation(tmp_path, LAYOUTS["one client a domain"], model="single_model")
    # Large logits: a cotangent that float32 holds has a gradient that it does not.
    grown = {
        key: to_array(1e3 * view(array)) if key == "3.weight" else array
        for key, array in federation.arrays.items()
    }
    strategy = build_strategy(name, {**update, "anneal_rounds": 0})
    strategy.penalty_weight = weight
    with pytest.raises(EngineError, match="is not finite, and the strategy's weights") as caught:
        federation.round(strategy, 1, array_record(grown))
    assert re.search(said, str(caught.value))
