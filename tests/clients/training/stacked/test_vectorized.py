import copy
import re
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from atoll.clients.arrays.model_arrays import ModelArrays
from atoll.clients.data.inputs.images import images_of
from atoll.clients.models.model_building import build_model
from atoll.clients.settings import ClientSettings, ModelSettings
from atoll.clients.tasks.classification import Classification
from atoll.clients.training.local_training import train
from atoll.clients.training.stacked import vectorized_training as vectorized
from atoll.clients.training.stacked.client_batch import ClientBatch
from atoll.clients.training.stacked.stacked_layers import stacked_linear_layers
from atoll.clients.training.stacked.vectorized_training import (
    VectorizedTrainer,
    obstacle_to_vectorizing,
)

TASK = Classification(classes=tuple("0123456789"))

SHAPE = (1, 8, 8)
RAGGED = [9, 0, 23, 16, 1, 40, 8]


def model_of(name: str, **arguments: Any) -> nn.Module:
    return build_model(ModelSettings(name=name, **arguments), SHAPE, 10, seed=1)


def both_ways(
    model: nn.Module, settings: ClientSettings, counts: list[int]
) -> tuple[list[Any], list[Any]]:
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(sum(counts), *SHAPE, generator=generator)
    labels = torch.randint(0, 10, (sum(counts),), generator=generator)
    start = copy.deepcopy(model.state_dict())
    rate = settings.learning_rate
    in_turn = []
    for client, (own_images, own_labels) in enumerate(
        zip(images.split(counts), labels.split(counts), strict=True)
    ):
        model.load_state_dict(start)
        result = train(
            model,
            own_images,
            own_labels,
            settings,
            learning_rate=rate,
            generator=torch.Generator().manual_seed(client),
        )
        in_turn.append((ModelArrays(model).read(), result))
    model.load_state_dict(start)
    trainer = VectorizedTrainer(model, settings, TASK)
    for _ in range(2):  # Memory is used again: the second time must not see the first.
        generators = [torch.Generator().manual_seed(c) for c in range(len(counts))]
        at_once = trainer.train(ClientBatch(images, labels, counts, rate, generators))
    assert all(torch.equal(start[key], value) for key, value in model.state_dict().items())
    return in_turn, at_once


def assert_equal(in_turn: list[Any], at_once: list[Any]) -> None:
    for (expected, expected_result), (arrays, result) in zip(in_turn, at_once, strict=True):
        assert list(arrays) == list(expected)
        for key, array in arrays.items():
            assert array.dtype == expected[key].dtype
            np.testing.assert_allclose(array.numpy(), expected[key].numpy(), rtol=0, atol=1e-5)
        assert (result.examples, result.steps) == (
            expected_result.examples,
            expected_result.steps,
        )
        assert result.loss == pytest.approx(expected_result.loss, rel=1e-4, abs=1e-6)


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"epochs": 3, "momentum": 0.9, "weight_decay": 0.01},
        {"steps": 7},
        {"epochs": 2, "proximal_mu": 0.5},
        {"epochs": 2, "gradient_clip": 0.3},
        {"epochs": 2, "optimizer": "adam", "learning_rate": 1e-3, "weight_decay": 0.05},
        {"epochs": 2, "momentum": 0.5, "proximal_mu": 0.1, "gradient_clip": 0.5},
    ],
)
@pytest.mark.parametrize("name", ["mlp", "lenet"])
def test_at_once_equals_in_turn(name: str, settings: dict[str, Any]) -> None:
    client = ClientSettings(**{"learning_rate": 0.05, "batch_size": 8, **settings})
    assert_equal(*both_ways(model_of(name), client, RAGGED))


@pytest.mark.parametrize("name", ["linear", "cnn-small", "resnet8"])
def test_other_models(name: str) -> None:
    client = ClientSettings(learning_rate=0.05, batch_size=8)
    assert_equal(*both_ways(model_of(name), client, [12, 8, 3]))


def test_groups_do_not_change_the_result(monkeypatch: pytest.MonkeyPatch) -> None:
    model = model_of("mlp", hidden=[30, 20])
    client = ClientSettings(batch_size=8, epochs=2)
    monkeypatch.setattr(vectorized, "CACHED_BYTES", 0)
    assert_equal(*both_ways(model, client, RAGGED))
    assert_equal(*both_ways(model, client, [0, 0]))


def test_frozen_parameters_stay_and_do_not_travel() -> None:
    model = model_of("mlp", hidden=[12, 12])
    model[1].weight.requires_grad_(False)
    model[3].requires_grad_(False)
    before = {key: model.state_dict()[key].clone() for key in ("1.weight", "3.weight", "3.bias")}
    in_turn, at_once = both_ways(model, ClientSettings(batch_size=8), [9, 16])
    assert_equal(in_turn, at_once)
    assert all(set(arrays) == {"1.bias", "5.weight", "5.bias"} for arrays, _ in at_once)
    assert all(torch.equal(model.state_dict()[key], value) for key, value in before.items())


def test_dropout_differs_between_clients_and_follows_the_seed() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 30), nn.Dropout(0.5), nn.Linear(30, 10))
    trainer = VectorizedTrainer(model, ClientSettings(batch_size=8), TASK)
    images, labels = torch.ones(16, *SHAPE), torch.zeros(16, dtype=torch.int64)
    runs = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        generators = [torch.Generator().manual_seed(0) for _ in range(2)]
        results = trainer.train(ClientBatch(images, labels, [8, 8], 0.1, generators))
        runs.append([arrays["1.weight"].numpy() for arrays, _ in results])
    assert not np.array_equal(runs[0][0], runs[0][1])
    assert np.array_equal(runs[0], runs[1])
    assert not np.array_equal(runs[0], runs[2])


class Branching(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.layer(x.flatten(1))
        return y if bool(y.sum() > 0) else -y


class Counting(Branching):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        y: Tensor = self.layer(x.flatten(1))
        return y


def tied() -> nn.Module:
    layer = nn.Linear(64, 64)
    return nn.Sequential(nn.Flatten(), layer, layer, nn.Linear(64, 10))


def normalising() -> nn.Module:
    norm = nn.BatchNorm2d(1, track_running_stats=False)
    return nn.Sequential(norm, nn.Flatten(), nn.Linear(64, 10))


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda: model_of("resnet8", norm="batch"), r"\(BatchNorm2d\) keeps running statistics"),
        (Branching, "vmap does not accept it"),
        (Counting, "buffer calls changes"),
        (tied, "one parameter under two names"),
        (normalising, "depend on each other"),
        (nn.Flatten, "no parameters"),
    ],
)
def test_what_cannot_be_vectorized(make: Any, reason: str) -> None:
    model = make()
    before = copy.deepcopy(model.state_dict())
    random_state = torch.get_rng_state()
    obstacle = obstacle_to_vectorizing(model, images_of(SHAPE))
    assert obstacle is not None
    assert re.search(reason, obstacle)
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())
    assert torch.equal(torch.get_rng_state(), random_state)


@pytest.mark.parametrize("name", ["linear", "mlp", "lenet", "cnn-small", "cnn-pfl", "resnet8"])
def test_what_can_be_vectorized(name: str) -> None:
    assert obstacle_to_vectorizing(model_of(name), images_of(SHAPE)) is None


def test_only_plain_linear_networks_are_computed_without_vmap() -> None:
    assert stacked_linear_layers(model_of("mlp")) is not None
    assert stacked_linear_layers(model_of("lenet")) is None
    assert stacked_linear_layers(Branching()) is None
    hooked = model_of("mlp")
    hooked[1].register_forward_hook(lambda module, inputs, output: 2 * output)
    assert stacked_linear_layers(hooked) is None
    assert_equal(*both_ways(hooked, ClientSettings(batch_size=8), [9, 16]))
