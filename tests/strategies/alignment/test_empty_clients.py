"""Clients without examples take no part, and a cohort of nothing else leaves the model as it is."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flwr.app import ConfigRecord

from atoll.strategies import build_strategy
from atoll.strategies.alignment import ALIGNMENT_STRATEGIES
from tests.support.strategies.small_federation import LAYOUTS, hex_of, make_federation, values

pytestmark = pytest.mark.slow

WHOLE = LAYOUTS["several domains on a client"]
# The same, after a client without examples, and before one without examples of a domain.
WITH_EMPTY = [{"photo": 0}, *WHOLE[:2], {"sketch": 2, "art": 0}, {"art": 0}]
STEP = {
    "client_update": "gradient",
    "server_optimizer": "sgd",
    "server_learning_rate": 1e-3,
}
# FedSR needs a model of its own, and has no moments.
NAMES = [name for name in ALIGNMENT_STRATEGIES if name != "FedSR"]


def arguments_of(name: str) -> dict[str, Any]:
    given: dict[str, Any] = {} if name in ("FedGMA", "FedDGGA", "Mixup", "GNS") else dict(STEP)
    if name in ("IRM", "VREx", "Fishr", "EQRM"):
        given["anneal_rounds"] = 0
    return given


# Clients draw Mixup's coefficients by their place, and MLDG deals domains at random.
@pytest.mark.parametrize("name", [name for name in NAMES if name not in ("Mixup", "MLDG")])
def test_a_round_is_that_of_the_clients_with_examples(name: str, tmp_path: Path) -> None:
    empty = make_federation(tmp_path / "empty", WITH_EMPTY)
    whole = make_federation(tmp_path / "whole", WHOLE)
    after, metrics = empty.round(build_strategy(name, arguments_of(name)))
    expected, known = whole.round(build_strategy(name, arguments_of(name)))
    assert metrics["loss"] == pytest.approx(known["loss"], rel=1e-14)
    # Clients shuffle their examples by their place.
    for key, value in values(expected).items():
        np.testing.assert_allclose(values(after)[key], value, rtol=1e-13, atol=1e-15)


@pytest.mark.parametrize("name", ["Mixup", "MLDG"])
def test_methods_that_draw_continue_too(name: str, tmp_path: Path) -> None:
    federation = make_federation(tmp_path, WITH_EMPTY)
    after, _ = federation.round(build_strategy(name, arguments_of(name)))
    assert hex_of(after) != hex_of(federation.arrays)
    assert all(np.isfinite(value).all() for value in values(after).values())


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("examples", [None, 5])
def test_a_cohort_without_any_example_leaves_the_model(
    name: str, examples: int | None, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    federation = make_federation(tmp_path, WITH_EMPTY)
    strategy = build_strategy(name, {**arguments_of(name), "examples_per_round": examples})
    federation.grid.get_node_ids = lambda: [1, 5]  # type: ignore[method-assign]
    with caplog.at_level(logging.WARNING, logger="atoll"):
        messages = strategy.configure_train(1, federation.arrays, ConfigRecord(), federation.grid)
        arrays, _ = strategy.aggregate_train(1, federation.grid.send_and_receive(messages))
    assert arrays is None
    assert "round 1: none of the clients has examples; the model stays" in caplog.text
    federation.grid.get_node_ids = lambda: [1, 2, 3, 4, 5]  # type: ignore[method-assign]
    federation.round(strategy, 2)
