"""LOKI's server: what it sends, and what it keeps."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict

from atoll.clients.models.model_building import build_model
from atoll.clients.settings import ModelSettings
from atoll.errors import InvalidExperimentError
from atoll.flower import assume_identity
from atoll.strategies import build_strategy
from atoll.strategies.malicious.loki import LOKI


class Nodes:
    """A grid that knows of nodes, as far as a strategy asks."""

    def __init__(self, count: int) -> None:
        self.count = count

    def get_node_ids(self) -> list[int]:
        return [7 * node for node in range(1, self.count + 1)]


def arrays_of(sets: int) -> ArrayRecord:
    settings = ModelSettings.model_validate({"name": "loki", "sets": sets, "bins": 4})
    return ArrayRecord(build_model(settings, (3, 8, 8), 10, seed=0).state_dict())


def messages_of(strategy: LOKI, arrays: ArrayRecord, nodes: int) -> list[Message]:
    assume_identity()
    grid: Any = Nodes(nodes)
    return list(strategy.configure_train(1, arrays, ConfigRecord({}), grid))


def test_each_client_gets_the_identity_in_a_place_of_its_own_and_the_rest_as_it_is() -> None:
    arrays = arrays_of(sets=3)
    messages = messages_of(LOKI(fraction_train=1.0), arrays, 3)
    images = torch.rand(2, 3, 8, 8)
    for place, message in enumerate(sorted(messages, key=lambda m: m.metadata.dst_node_id)):
        sent = message.content.array_records["arrays"]
        weight, bias = (
            torch.from_numpy(sent[f"0.kernels.{part}"].numpy()) for part in ("weight", "bias")
        )
        outputs = torch.conv2d(images, weight, bias, padding=1).view(2, 3, 3, 8, 8)
        torch.testing.assert_close(outputs[:, place], 500 * (images + 4.0))
        assert not torch.cat([outputs[:, :place], outputs[:, place + 1 :]], 1).any()
        for key, array in arrays.items():
            if not key.startswith("0.kernels"):
                np.testing.assert_array_equal(sent[key].numpy(), array.numpy())


def test_the_block_is_sent_again_as_it_was_and_the_network_is_averaged() -> None:
    arrays, strategy = arrays_of(sets=2), LOKI(fraction_train=1.0)
    messages = messages_of(strategy, arrays, 2)
    replies = []
    for message in messages:
        trained = ArrayRecord(
            {k: type(a)(a.numpy() + 1) for k, a in message.content.array_records["arrays"].items()}
        )
        metrics = MetricRecord({"num-examples": 5, "loss": 1.0})
        content = RecordDict({"arrays": trained, "metrics": metrics})
        replies.append(Message(content, reply_to=message))
    after, _ = strategy.aggregate_train(1, replies)
    assert after is not None
    for key, array in arrays.items():
        moved = 0.0 if key.startswith("0.") else 1.0
        np.testing.assert_allclose(after[key].numpy(), array.numpy() + moved, rtol=1e-5, atol=1e-5)


def test_a_model_without_enough_kernels_is_refused() -> None:
    strategy = build_strategy("LOKI", {"fraction_train": 0.5})
    assert isinstance(strategy, LOKI)
    parameters = {key: torch.from_numpy(a.numpy()) for key, a in arrays_of(sets=3).items()}
    strategy.check_model(parameters, clients=6)
    with pytest.raises(InvalidExperimentError, match="model.sets = 3: a round has 4 clients, .*4"):
        strategy.check_model(parameters, clients=8)
    with pytest.raises(InvalidExperimentError, match="at least 4"):
        messages_of(LOKI(fraction_train=1.0), arrays_of(sets=3), 4)
    other = build_model(ModelSettings(name="mlp"), (1, 8, 8), 10, seed=0)
    with pytest.raises(InvalidExperimentError, match="expected model.name = 'loki'"):
        strategy.check_model(other.state_dict(), clients=2)
