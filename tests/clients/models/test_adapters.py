"""Adapters: outputs are as they were, only small updates and the head train, only those travel."""

import numpy as np
import pytest
import torch

from atoll.clients import (
    Classification,
    ClientSettings,
    ModelArrays,
    ModelSettings,
    TokenInputs,
    build_model,
    train,
)
from atoll.clients.arrays.travelling import frozen_sha256, travelling_state
from atoll.clients.training.stacked.vectorized_training import obstacle_to_vectorizing
from atoll.errors import InvalidExperimentError

pytest.importorskip("peft")
INPUTS = TokenInputs(length=6, vocabulary=9)
TASK = Classification(classes=("no", "yes"))
TINY = {"name": "text-transformer", "width": 8, "heads": 2}


def _built(seed: int = 0, **adapters):
    settings = ModelSettings.model_validate({**TINY, "adapters": {"rank": 2, **adapters}})
    return build_model(settings, INPUTS, TASK, seed)


def _tokens() -> torch.Tensor:
    return INPUTS.varied(12, generator=torch.Generator().manual_seed(0))


def test_outputs_are_at_first_those_of_the_model_without() -> None:
    plain = build_model(ModelSettings.model_validate(TINY), INPUTS, TASK, 0)
    torch.testing.assert_close(_built()(_tokens()), plain(_tokens()))


def test_the_updates_and_the_head_travel() -> None:
    model = _built(targets=["qkv"])
    assert list(travelling_state(model)) == [
        "blocks.0.attention.qkv.lora_A.default.weight",
        "blocks.0.attention.qkv.lora_B.default.weight",
        "blocks.1.attention.qkv.lora_A.default.weight",
        "blocks.1.attention.qkv.lora_B.default.weight",
        "head.weight",
        "head.bias",
    ]
    assert set(ModelArrays(model).read()) == set(travelling_state(model))


def test_training_changes_what_travels_and_nothing_else() -> None:
    model = _built()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    frozen = frozen_sha256(model)
    settings = ClientSettings(batch_size=4, learning_rate=0.5)
    train(
        model,
        _tokens(),
        torch.arange(12) % 2,
        settings,
        learning_rate=0.5,
        generator=torch.Generator().manual_seed(0),
        task=TASK,
    )
    changed = {k for k, value in model.state_dict().items() if not torch.equal(before[k], value)}
    assert changed == set(travelling_state(model))
    assert frozen_sha256(model) == frozen


def test_another_model_of_the_seed_is_whole_after_loading() -> None:
    source, target = _built(), _built()
    with torch.no_grad():
        for value in travelling_state(source).values():
            value.add_(0.1)
    ModelArrays(target).load(ModelArrays(source).read())
    assert torch.equal(source(_tokens()), target(_tokens()))
    assert frozen_sha256(_built(seed=1)) != frozen_sha256(target)


def test_clients_with_adapters_can_train_vectorised() -> None:
    assert obstacle_to_vectorizing(_built(), INPUTS) is None


def test_a_whole_model_of_an_earlier_version_is_loaded_too() -> None:
    from flwr.app import ArrayRecord

    source, target = _built(seed=1), _built(seed=2)
    ModelArrays(target).load(ArrayRecord(source.state_dict()))
    assert torch.equal(source(_tokens()), target(_tokens()))


def test_buffers_of_a_frozen_layer_stay_and_others_travel() -> None:
    class Constant(torch.nn.BatchNorm1d):
        def train(self, mode: bool = True) -> "Constant":
            return super().train(False)

    model = torch.nn.Sequential(Constant(3), torch.nn.BatchNorm1d(3), torch.nn.Linear(3, 2))
    whole = set(model.state_dict())
    assert set(travelling_state(model)) == whole
    model[0].requires_grad_(False)
    assert set(travelling_state(model)) == {key for key in whole if not key.startswith("0.")}
    assert model.training
    assert np.isfinite(len(frozen_sha256(model) or ""))


@pytest.mark.parametrize(
    ("adapters", "said"),
    [
        ({"targets": ["query"]}, "no linear layer beside the head has such a name; it has blocks"),
        ({"trained": ["body"]}, "model.adapters.trained = 'body'"),
    ],
)
def test_a_wrong_name_is_one_line(adapters, said: str) -> None:
    with pytest.raises(InvalidExperimentError, match=said):
        _built(**adapters)
