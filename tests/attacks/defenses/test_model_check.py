"""The client's check of the model that it got."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from flwr.app import ArrayRecord, ConfigRecord, Context, Message, RecordDict

from atoll.attacks.defenses.model_check import ModelCheck, suspicious_weights
from atoll.clients.data.catalog.loading import load_dataset
from atoll.clients.models.model_building import build_model
from atoll.clients.settings import ModelSettings
from atoll.flower import assume_identity

MALICIOUS: list[dict[str, Any]] = [
    {"name": "imprint", "bins": 64, "base": "mlp"},
    {"name": "fishing", "base": "lenet-relu", "target": 3},
    {"name": "fishing", "base": "resnet8", "target": 0},
]
HONEST = ["linear", "mlp", "lenet", "lenet-relu", "resnet8", "cnn-small", "vit"]


def message_of(model: dict[str, Any], message_type: str = "train") -> Message:
    """The message of a server that sends this model."""
    assume_identity()
    data = load_dataset("digits")
    module = build_model(ModelSettings.model_validate(model), data.image_shape, 10, seed=1)
    content = RecordDict({"arrays": ArrayRecord(module.state_dict()), "config": ConfigRecord()})
    return Message(content, dst_node_id=1, message_type=message_type)


def answer(mod: ModelCheck, message: Message) -> Message:
    def trains(message: Message, context: Context) -> Message:
        return Message(RecordDict(), reply_to=message)

    return mod(message, Context(1, 1, {}, RecordDict(), {}), trains)


@pytest.mark.parametrize("model", MALICIOUS)
def test_models_of_malicious_servers_are_refused(model: dict[str, Any]) -> None:
    reply = answer(ModelCheck(), message_of(model))
    assert reply.has_error()
    assert "the client refuses the model" in reply.error.reason
    assert not answer(ModelCheck(repeated=1.0), message_of(model)).has_error()
    # A query is answered: nothing is learnt from it by such weights.
    assert not answer(ModelCheck(), message_of(model, "query")).has_error()


@pytest.mark.parametrize("name", HONEST)
def test_models_that_were_drawn_pass(name: str) -> None:
    assert not answer(ModelCheck(), message_of({"name": name})).has_error()


def test_zero_weights_of_adapters_pass_and_rows_that_differ_evade_it() -> None:
    assert suspicious_weights({"b": torch.zeros(8, 8)}, 0.5) == {}
    rows = torch.ones(20, 30)
    assert suspicious_weights({"w": rows}, 0.5) == {"w": 1.0}
    evading = rows + 0.1 * torch.randn(20, 30, generator=torch.Generator().manual_seed(0))
    assert suspicious_weights({"w": evading}, 0.5) == {}
