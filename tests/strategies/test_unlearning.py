"""A strategy around another: who is asked what in which round, and what becomes of the replies."""

from __future__ import annotations

import numpy as np
import pytest
from flwr.app import ArrayRecord, ConfigRecord, Error, Message, MetricRecord, RecordDict
from flwr.serverapp.strategy import FedAvg

from atoll import flower
from atoll.clients.apps.leaving_clients import Ascent
from atoll.errors import EngineError
from atoll.flower.arrays import array_record, to_array
from atoll.platform.attack_runs.shadows.local_grid import LocalGrid
from atoll.strategies.unlearning import Unlearning

ASKED = Ascent(batch_size=4, stop=0.2, is_projected=True, radius=0.5)


def arrays(*values: float) -> ArrayRecord:
    return array_record({"w": to_array(np.array(values, np.float32))})


def strategy() -> Unlearning:
    inner = FedAvg(fraction_train=1.0, fraction_evaluate=0.0)
    return Unlearning(inner, (2, 4), ASKED.to_config(), ascent_round=2)


def sent(server_round: int) -> list[Message]:
    grid = LocalGrid(lambda message, context: message, 5)  # type: ignore[arg-type]
    return list(
        strategy().configure_train(server_round, arrays(1.0), ConfigRecord({"lr": 0.1}), grid)
    )


def reply(message: Message, value: float, examples: int) -> Message:
    metrics = MetricRecord({"num-examples": examples, "loss": 1.0})
    return Message(RecordDict({"arrays": arrays(value), "metrics": metrics}), reply_to=message)


def test_only_those_who_leave_are_asked_to_ascend() -> None:
    asked = sent(2)
    assert [message.metadata.dst_node_id for message in asked] == [2, 4]
    assert {message.metadata.message_type for message in asked} == {"train.unlearn"}
    config = asked[0].content["config"]
    assert isinstance(config, ConfigRecord)
    assert config["server-round"] == 2
    assert Ascent.from_config(config) == ASKED
    others = sent(1)
    assert sorted(message.metadata.dst_node_id for message in others) == [1, 2, 3, 4, 5]
    assert {message.metadata.message_type for message in others} == {"train"}


def test_their_mean_is_the_next_model() -> None:
    flower.assume_identity()
    first, second = sent(2)
    found, metrics = strategy().aggregate_train(2, [reply(first, 1.0, 1), reply(second, 4.0, 2)])
    assert found is not None
    assert metrics is not None
    assert found["w"].numpy().tolist() == [3.0]


def test_nothing_is_unlearned_without_them() -> None:
    flower.assume_identity()
    first, second = sent(2)
    refused = Message(Error(1, "no"), reply_to=second)
    with pytest.raises(EngineError, match=r"unlearn.nodes = \[2, 4\]: gradient ascent failed.*no"):
        strategy().aggregate_train(2, [reply(first, 1.0, 1), refused])
    with pytest.raises(EngineError, match="no answer"):
        strategy().aggregate_train(2, [reply(first, 1.0, 1)])
