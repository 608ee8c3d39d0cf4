"""The client's check of the model that it got."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from flwr.app import ArrayRecord, ConfigRecord, Context, Message, RecordDict

from atoll.attacks.defenses.model_check import (
    ModelCheck,
    bare_kernels,
    spaced_biases,
    suspicious_weights,
)
from atoll.clients.data.catalog.loading import load_dataset
from atoll.clients.models.model_building import build_model
from atoll.clients.settings import ModelSettings
from atoll.flower import assume_identity

MALICIOUS: list[dict[str, Any]] = [
    {"name": "imprint", "bins": 64, "base": "mlp"},
    {"name": "fishing", "base": "lenet-relu", "target": 3},
    {"name": "fishing", "base": "resnet8", "target": 0},
    {"name": "loki", "sets": 4, "bins": 64, "base": "mlp"},
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
    lenient = ModelCheck(repeated=1.0, spacing=0.0)
    assert not answer(lenient, message_of(model)).has_error()
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


def weights_of(model: dict[str, Any]) -> dict[str, torch.Tensor]:
    data = load_dataset("digits")
    return build_model(
        ModelSettings.model_validate(model), data.image_shape, 10, seed=1
    ).state_dict()


def test_lokis_kernels_rows_and_biases_are_each_noticed() -> None:
    weights = weights_of({"name": "loki", "sets": 3, "bins": 64, "base": "lenet"})
    assert bare_kernels(weights, 0.5) == {"0.kernels.weight": 1.0}
    assert {"0.encoder.weight", "0.decoder.weight"} <= suspicious_weights(weights, 0.5).keys()
    [(name, change)] = spaced_biases(weights, 0.1).items()
    assert name == "0.encoder.bias"
    assert change < 0.05
    # The order of the units says nothing.
    order = torch.randperm(64)
    shuffled = {key: weights[f"0.encoder.{key}"][order] for key in ("bias", "weight")}
    assert spaced_biases(shuffled, 0.1)["bias"] == pytest.approx(change)
    assert bare_kernels({"w": torch.zeros(4, 1, 3, 3)}, 0.5) == {}


def test_rows_with_noise_pass_until_the_tolerance_is_wider_and_their_biases_do_not() -> None:
    weights = weights_of({"name": "imprint", "bins": 64, "base": "lenet"})
    rows = weights["0.encoder.weight"]
    weights["0.encoder.weight"] = rows + 0.1 * rows.mean() * torch.randn(rows.shape)
    weights["0.decoder.weight"] = torch.randn(weights["0.decoder.weight"].shape)
    assert suspicious_weights(weights, 0.5) == {}
    assert suspicious_weights(weights, 0.5, 0.05) == {"0.encoder.weight": 1.0}
    assert set(spaced_biases(weights, 0.1)) == {"0.encoder.bias"}


def test_the_gaps_of_biases_that_were_drawn_change_by_about_a_half() -> None:
    drawn = torch.rand(4096, generator=torch.Generator().manual_seed(0))
    # Of two independent exponential gaps the share |a - b| / (a + b) is uniform: its median is 1/2.
    assert spaced_biases({"bias": drawn}, 1.0)["bias"] == pytest.approx(0.5, abs=0.03)
    assert spaced_biases({"bias": torch.zeros(64)}, 1.0) == {}
    assert spaced_biases({"scale": torch.arange(64.0)}, 1.0) == {}
