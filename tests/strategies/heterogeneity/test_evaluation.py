"""Clients' evaluations are averaged by their examples, whatever weights training replies."""

from __future__ import annotations

import pytest
from flwr.app import ArrayRecord, Message, MetricRecord, RecordDict
from flwr.serverapp.strategy import FedAvg

from atoll import flower
from atoll.strategies import build_strategy


def reply(node: int, examples: int, accuracy: float) -> Message:
    flower.assume_identity()
    request = Message(RecordDict({"arrays": ArrayRecord()}), node, "evaluate")
    flower.set_message_id(request, f"message {node}")
    metrics = MetricRecord({"num-examples": examples, "accuracy": accuracy})
    return flower.reply(request, RecordDict({"metrics": metrics}), f"reply {node}")


@pytest.mark.parametrize("name", ["SCAFFOLD", "FedDyn", "FedNova", "FedExP", "DataDiet"])
def test_an_evaluation_needs_what_fed_avgs_needs(name: str) -> None:
    strategy = build_strategy(name, {})
    training = strategy.weighted_by_key
    replies = [reply(1, 30, 0.5), reply(2, 10, 0.9)]
    expected = FedAvg().aggregate_evaluate(1, replies)
    assert dict(strategy.aggregate_evaluate(1, replies)) == dict(expected)
    assert expected["accuracy"] == pytest.approx(0.6)
    assert strategy.weighted_by_key == training
