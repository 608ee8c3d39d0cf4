"""Clients that answer the queries of a round and then fail: the step, the metric, the warning."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytest
import torch

from atoll.strategies import build_strategy
from tests.support.strategies import centralised as c
from tests.support.strategies.small_federation import LAYOUTS, make_federation, values

SPLIT = LAYOUTS["domains split over unequal clients"]
STEP = {
    "client_update": "gradient",
    "server_optimizer": "sgd",
    "server_learning_rate": 1.0,
    "domain_weights": "examples",
}


def test_the_step_is_that_of_the_others_with_the_targets_of_all(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    federation = make_federation(tmp_path, SPLIT)
    # Node 4 has the art examples 2 to 11.
    federation.grid.failing[4, "train"] = 1
    strategy = build_strategy("VREx", {**STEP, "anneal_rounds": 0, "penalty_weight": 10.0})
    with caplog.at_level(logging.WARNING, logger="atoll"):
        after, metrics = federation.round(strategy)
    assert metrics["lost_weight"] == pytest.approx(10 / 29)
    assert "clients (nodes 4) that count for 34.5 % of the mean failed" in caplog.text
    domains = dict(
        zip(sorted(federation.data), c.make_domains(federation.model, federation.data), strict=True)
    )
    sizes = {name: len(domain.each) for name, domain in domains.items()}
    mean = sum(sizes[name] / 29 * float(d.loss.detach()) for name, d in domains.items())
    kept = {name: torch.ones(size).bool() for name, size in sizes.items()}
    kept["art"][2:12] = False
    total = sum(
        (1 + 20 * (float(domain.loss.detach()) - mean)) * domain.each[kept[name]].sum() / 19
        for name, domain in domains.items()
    )
    gradient = torch.autograd.grad(total, list(federation.model.parameters()))
    for (key, _), expected in zip(federation.model.named_parameters(), gradient, strict=True):
        moved = values(federation.arrays)[key] - values(after)[key]
        np.testing.assert_allclose(moved, expected.numpy(), atol=1e-12)


def test_without_a_loss_or_without_a_penalty_there_is_no_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    federation = make_federation(tmp_path, SPLIT)
    with caplog.at_level(logging.WARNING, logger="atoll"):
        _, whole = federation.round(build_strategy("HGP", {}))
        federation.grid.failing[4, "train"] = 1
        _, plain = federation.round(build_strategy("ERM", {"domain_weights": "examples"}))
        federation.grid.failing[4, "train"] = 1
        _, adjusted = federation.round(build_strategy("FedDGGA", {}))
    assert whole["lost_weight"] == 0.0
    assert plain["lost_weight"] == pytest.approx(10 / 29)
    assert adjusted["lost_weight"] == pytest.approx(1 / 6)
    assert "not exactly the centralised one" not in caplog.text
