"""FedGMA and FedDG-GA against their formulas, on the clients' own replies."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flwr.app import ConfigRecord

from atoll.clients.settings import ClientSettings
from atoll.platform.config.aggregation import aggregation_of
from atoll.strategies import build_strategy
from tests.support.strategies import centralised as c
from tests.support.strategies.small_federation import (
    LAYOUTS,
    SmallFederation,
    make_federation,
    values,
)

STEPS = ClientSettings(learning_rate=0.3, batch_size=4, epochs=2)


@pytest.fixture
def federation(tmp_path: Path) -> SmallFederation:
    return make_federation(tmp_path, LAYOUTS["one client a domain"], client=STEPS)


def test_updates_are_masked_by_the_agreement_of_their_signs(federation: SmallFederation) -> None:
    strategy = build_strategy("FedGMA", {"tau": 0.8, "step_size": 0.5})
    messages = list(strategy.configure_train(1, federation.arrays, ConfigRecord(), federation.grid))
    replies = federation.grid.send_and_receive(messages)
    after, _ = strategy.aggregate_train(1, replies)
    assert after is not None
    for key, before in values(federation.arrays).items():
        updates = [r.content["arrays"][key].numpy() - before for r in replies]
        agreement = np.abs(np.mean(np.sign(updates), axis=0))
        mask = np.where(agreement >= 0.8, 1.0, agreement)
        # Domains count the same, and each is one client.
        expected = before + 0.5 * mask * np.mean(updates, axis=0)
        np.testing.assert_allclose(after[key].numpy(), expected, atol=1e-12)
        assert agreement.min() < 1.0
    assert not aggregation_of(strategy).sum_replies
    assert aggregation_of(build_strategy("VREx", {})).sum_replies


def test_clients_with_a_larger_gap_count_more(federation: SmallFederation) -> None:
    strategy = build_strategy("FedDGGA", {"step_size": 0.2})
    first, metrics = federation.round(strategy)
    equal, _ = federation.round(build_strategy("ERM", {}))
    for key, value in values(equal).items():
        np.testing.assert_allclose(values(first)[key], value, atol=1e-12)
    assert metrics["sums_suffice"] == 0.0
    local = dict(strategy._losses_after)  # type: ignore[attr-defined]
    messages = list(strategy.configure_train(2, first, ConfigRecord(), federation.grid))
    weights = dict(strategy._client_weights)  # type: ignore[attr-defined]
    for key, value in values(first).items():
        module, _, name = key.rpartition(".")
        parameter = federation.model.get_submodule(module).get_parameter(name)
        parameter.data.copy_(parameter.new_tensor(value))
    order = ("photo", "art", "sketch")
    losses = [float(c.Domain(federation.model, *federation.data[d]).loss.detach()) for d in order]
    gaps = np.array([loss - local[node] for node, loss in enumerate(losses, 1)])
    moved = 1 / 3 + 0.2 * (gaps - gaps.mean()) / np.abs(gaps - gaps.mean()).max()
    moved = np.clip(moved, 0, 1)
    np.testing.assert_allclose([weights[n] for n in (1, 2, 3)], moved / moved.sum(), atol=1e-9)
    replies = federation.grid.send_and_receive(messages)
    trained = [r.content["arrays"]["head.bias"].numpy() for r in replies]
    after, _ = strategy.aggregate_train(2, replies)
    assert after is not None
    expected = np.average(trained, axis=0, weights=moved)
    np.testing.assert_allclose(after["head.bias"].numpy(), expected, atol=1e-9)


def test_as_released_the_steps_are_a_third_and_two_rounds_late(federation: SmallFederation) -> None:
    """So a step at round 2 of 10 is 1/3 of 11/10 of the step size, where the paper's is 9/10."""

    def weights(size: float, **options: object) -> list[float]:
        strategy = build_strategy("FedDGGA", {"step_size": size, **options})
        strategy._client_weights = dict.fromkeys((1, 2, 3), 1 / 3)  # type: ignore[attr-defined]
        strategy._losses_after = dict.fromkeys((1, 2, 3), 0.0)  # type: ignore[attr-defined]
        strategy._adjust(2, {1: 0.1, 2: 0.2, 3: 0.4})  # type: ignore[attr-defined]
        return list(strategy._client_weights.values())  # type: ignore[attr-defined]

    released = weights(0.1, decay_rounds=10, as_released=True)
    np.testing.assert_allclose(released, weights(0.1 * 1.1 / 3), rtol=1e-12)
    np.testing.assert_allclose(weights(0.1, decay_rounds=10), weights(0.09), rtol=1e-12)


def test_clients_that_have_all_come_to_weight_zero_begin_anew(federation: SmallFederation) -> None:
    """A cohort of them had no mean (a division by zero in Flower), and stayed at zero for ever."""
    strategy: Any = build_strategy("FedDGGA", {"step_size": 0.2})
    arrays, _ = federation.round(strategy)
    strategy._client_weights = {1: 0.0, 2: 0.0, 3: 1.0}
    federation.grid.get_node_ids = lambda: [1, 2]  # type: ignore[method-assign]
    after, metrics = federation.round(strategy, 2, arrays)
    assert metrics["lost_weight"] == 0.0
    weights = strategy._client_weights
    assert weights[3] == 1.0
    assert weights[1] + weights[2] == pytest.approx(1.0)
    assert max(weights[1], weights[2]) > 0.5
    assert all(np.isfinite(value).all() for value in values(after).values())


def test_the_client_with_all_the_weight_may_fail(federation: SmallFederation) -> None:
    strategy: Any = build_strategy("FedDGGA", {"step_size": 0.0})
    strategy._client_weights = {1: 0.0, 2: 0.0, 3: 1.0}
    federation.grid.failing[3, "train"] = 1
    messages = list(strategy.configure_train(1, federation.arrays, ConfigRecord(), federation.grid))
    replies = federation.grid.send_and_receive(messages)
    after, metrics = strategy.aggregate_train(1, replies)
    trained = [r.content["arrays"]["head.bias"].numpy() for r in replies if not r.has_error()]
    np.testing.assert_allclose(after["head.bias"].numpy(), np.mean(trained, 0), atol=1e-12)
    assert np.isfinite(metrics["loss"])


def test_a_loss_that_is_not_finite_moves_no_weight(federation: SmallFederation) -> None:
    strategy: Any = build_strategy("FedDGGA", {})
    messages = list(strategy.configure_train(1, federation.arrays, ConfigRecord(), federation.grid))
    replies = federation.grid.send_and_receive(messages)
    replies[0].content["metrics"]["loss_after"] = float("inf")
    after, _ = strategy.aggregate_train(1, replies)
    list(strategy.configure_train(2, after, ConfigRecord(), federation.grid))
    assert all(np.isfinite(weight) for weight in strategy._client_weights.values())
