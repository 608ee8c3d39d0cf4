"""Canary clients: what they send, and that audits tell broken mechanisms from right ones."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pytest
from flwr.app import ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.serverapp.strategy import FedAvg
from flwr.supercore.differential_privacy import compute_clip_model_update
from numpy.typing import NDArray

from atoll import flower
from atoll.attacks.audits.canary_clients import (
    CanaryClients,
    canary_cosines,
    direction,
    is_included,
)
from atoll.flower.arrays import array_record, to_array, view
from atoll.privacy.accounting import Mechanism, noise_for
from atoll.privacy.one_run import OneRunBound, audit_scores
from atoll.strategies.privacy.central_dp import CentralDP
from tests.support.strategies.private_rounds import model, private_run

pytestmark = pytest.mark.slow

CANARIES, SIZE, ROUNDS, DELTA = 200, 8_000, 5, 1e-5
SHAPES = {"w": (SIZE,)}


def canary(node: int, server_round: int) -> NDArray[np.float64]:
    scale = 10.0 if is_included(0, node) else 0.0
    return scale * direction(SHAPES, 0, node)["w"]


def audited(strategy: CentralDP) -> OneRunBound:
    """Return the bound for a federation of canaries alone."""
    after = private_run(strategy, ROUNDS, SIZE, canary)[-1]
    nodes = range(1, CANARIES + 1)
    cosines = canary_cosines(model(np.zeros(SIZE)), model(after), nodes, seed=0)
    return audit_scores(cosines, [is_included(0, node) for node in nodes], DELTA, 0.95)


def private(kind: type[CentralDP], sampling: str, epsilon: float, fraction: float) -> CentralDP:
    inner = FedAvg(fraction_train=fraction, fraction_evaluate=0.0)
    made = kind(inner, CANARIES, 1.0, DELTA, sampling=sampling)  # type: ignore[arg-type]
    made.noise_multiplier = noise_for(made.accounted, ROUNDS, epsilon, DELTA)
    return made


class TenthOfTheNoise(CentralDP):
    """Adds a tenth of the noise that it accounts for."""

    def _noise(
        self, server_round: int, shapes: dict[str, tuple[int, ...]]
    ) -> dict[str, NDArray[np.float64]]:
        noise = super()._noise(server_round, shapes)
        return {name: values / 10 for name, values in noise.items()}


class WithoutClipping(CentralDP):
    """Adds the noise for a clipping norm that it does not keep to."""

    def _clipped_sum(
        self, before: dict[str, NDArray[np.float64]], replies: Sequence[Message]
    ) -> tuple[dict[str, NDArray[np.float64]], list[float]]:
        norm, self.clipping_norm = self.clipping_norm, math.inf
        found = super()._clipped_sum(before, replies)
        self.clipping_norm = norm
        return found


class OverTheWrongRate(CentralDP):
    """Accounts for a twentieth of the clients that it has in a round."""

    @property
    def accounted(self) -> Mechanism:
        right = super().accounted
        return Mechanism(right.noise_multiplier, right.sampling, right.rate / 20)


@pytest.mark.parametrize(
    ("sampling", "fraction"), [("poisson", 1.0), ("poisson", 0.5), ("fixed", 0.5), ("epochs", 0.5)]
)
@pytest.mark.slow
def test_a_right_mechanism_is_not_refuted(sampling: str, fraction: float) -> None:
    assert audited(private(CentralDP, sampling, 1.0, fraction)).epsilon <= 1.0


def test_the_bound_is_above_zero_where_there_is_little_noise() -> None:
    bound = audited(private(CentralDP, "poisson", 12.0, 1.0)).epsilon
    assert 1.0 < bound <= 12.0


@pytest.mark.parametrize("broken", [TenthOfTheNoise, WithoutClipping, OverTheWrongRate])
def test_a_broken_mechanism_is_refuted(broken: type[CentralDP]) -> None:
    strategy = private(broken, "poisson", 1.0, 1.0)
    assert strategy.epsilon(ROUNDS) <= 1.0
    assert audited(strategy).epsilon > 1.0


def test_the_mod_sends_a_direction_or_nothing_and_leaves_others_alone() -> None:
    flower.assume_identity()
    mod = CanaryClients(first=3, norm=2.0, seed=5)
    values = np.arange(4.0)
    nodes = range(1, 9)
    assert {is_included(5, node) for node in nodes if node >= 3} == {False, True}
    for node in nodes:
        content = RecordDict({"arrays": model(values), "config": ConfigRecord()})
        asked = Message(content, dst_node_id=node, message_type="train")
        metrics = MetricRecord({"num-examples": 3})
        answer = RecordDict({"arrays": model(values + 1.0), "metrics": metrics})
        context = Context(1, node, {}, RecordDict(), {})
        reply = mod(asked, context, lambda m, c, answer=answer: Message(answer, reply_to=m))  # type: ignore[misc]
        update = view(reply.content.array_records["arrays"]["w"]) - values
        expected = np.ones(4)
        if node >= 3:
            expected = 2.0 * is_included(5, node) * direction({"w": (4,)}, 5, node)["w"]
            assert 0.0 < np.linalg.norm(update - expected) < 3e-6 or is_included(5, node)
        assert update == pytest.approx(expected, abs=3e-6)
        assert reply.content.metric_records["metrics"]["num-examples"] == 3


def test_flowers_clipping_takes_a_canary_that_is_out() -> None:
    flower.assume_identity()
    mod = CanaryClients(first=1, norm=10.0, seed=5)
    node = next(node for node in range(1, 9) if not is_included(5, node))
    for values in (np.zeros(4_000, np.float32), np.ones(4_000, np.float32)):
        arrays = array_record({"w": to_array(values)})
        sent = RecordDict({"arrays": arrays, "config": ConfigRecord()})
        asked = Message(sent, dst_node_id=node, message_type="train")
        metrics = MetricRecord({"num-examples": 3})
        answer = RecordDict({"arrays": arrays, "metrics": metrics})
        context = Context(1, node, {}, RecordDict(), {})
        reply = mod(asked, context, lambda m, c, answer=answer: Message(answer, reply_to=m))  # type: ignore[misc]
        found = [view(reply.content.array_records["arrays"]["w"]).copy()]
        # It divides by the norm of the update.
        compute_clip_model_update(found, [values], 1.0)
        assert found[0] == pytest.approx(values, abs=1e-5)
