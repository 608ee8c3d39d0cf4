"""Sums made while clients train equal the sums of their models, whatever way they were trained."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from atoll.clients.arrays.model_arrays import ModelArrays
from atoll.clients.arrays.weighted_sum import WeightedSum
from atoll.clients.models.model_building import build_model
from atoll.clients.settings import ClientSettings, ModelSettings
from atoll.clients.tasks.classification import Classification
from atoll.clients.training.local_training import train
from atoll.clients.training.stacked import fed_sgd, summed_training
from atoll.clients.training.stacked.client_batch import ClientBatch
from atoll.clients.training.stacked.fed_sgd import is_linear
from atoll.clients.training.stacked.vectorized_training import VectorizedTrainer

TASK = Classification(classes=tuple("0123456789"))

SHAPE = (1, 8, 8)
RAGGED = [9, 0, 23, 16, 1, 40, 8]


def both_sums(
    model: nn.Module, settings: ClientSettings, counts: list[int]
) -> tuple[WeightedSum, list[Any], WeightedSum, list[Any]]:
    random = torch.Generator().manual_seed(0)
    images = torch.randn(sum(counts), *SHAPE, generator=random)
    labels = torch.randint(0, 10, (sum(counts),), generator=random)
    start = copy.deepcopy(model.state_dict())
    expected, results = WeightedSum(), []
    for client, (own_images, own_labels) in enumerate(
        zip(images.split(counts), labels.split(counts), strict=True)
    ):
        model.load_state_dict(start)
        generator = torch.Generator().manual_seed(client)
        rate = settings.learning_rate
        results.append(
            train(model, own_images, own_labels, settings, learning_rate=rate, generator=generator)
        )
        expected.add(ModelArrays(model).read(), len(own_labels))
    model.load_state_dict(start)
    generators = [torch.Generator().manual_seed(c) for c in range(len(counts))]
    batch = ClientBatch(images, labels, counts, settings.learning_rate, generators)
    summed = VectorizedTrainer(model, settings, TASK).train_and_sum(batch)
    assert all(torch.equal(start[key], value) for key, value in model.state_dict().items())
    return expected, results, summed.total, summed.results


def assert_same(
    expected: WeightedSum, results: list[Any], total: WeightedSum, found: list[Any]
) -> None:
    assert total.weight == expected.weight
    assert total.structure() == expected.structure()
    wanted, means = expected.mean(), total.mean()
    for key, array in wanted.items():
        np.testing.assert_allclose(means[key].numpy(), array.numpy(), rtol=0, atol=1e-5)
    for one, other in zip(results, found, strict=True):
        assert (one.examples, one.steps) == (other.examples, other.steps)
        assert other.loss == pytest.approx(one.loss, rel=1e-4, abs=1e-6)


def model_of(name: str) -> nn.Module:
    return build_model(ModelSettings(name=name), SHAPE, 10, seed=1)


ONE_STEP = [
    {"batch_size": 64},
    {"steps": 1, "batch_size": 8},
    {"batch_size": 64, "momentum": 0.9, "weight_decay": 0.05},
    {"batch_size": 64, "proximal_mu": 0.3},
]
SEVERAL_STEPS = [
    {"batch_size": 8},
    {"batch_size": 64, "epochs": 2, "momentum": 0.9},
    {"batch_size": 64, "gradient_clip": 0.1},
    {"batch_size": 64, "optimizer": "adam"},
]


@pytest.mark.parametrize("settings", ONE_STEP + SEVERAL_STEPS, ids=str)
@pytest.mark.parametrize("name", ["mlp", "cnn-small"])
def test_a_sum_made_at_once_is_the_sum_of_the_clients_models(
    name: str, settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(summed_training, "BLOCK", 100)
    monkeypatch.setattr(fed_sgd, "EXAMPLES_A_PASS", 30)
    client = ClientSettings(**{"learning_rate": 0.05, **settings})
    assert_same(*both_sums(model_of(name), client, RAGGED))


@pytest.mark.parametrize("settings", ONE_STEP, ids=str)
def test_one_linear_step_needs_no_clients_model(
    settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(VectorizedTrainer, "_stacked", None)
    client = ClientSettings(learning_rate=0.05, **settings)
    assert is_linear(client)
    assert_same(*both_sums(model_of("mlp"), client, RAGGED))


def test_clients_without_examples_add_nothing() -> None:
    for settings in (ClientSettings(), ClientSettings(optimizer="adam")):
        _, _, total, results = both_sums(model_of("mlp"), settings, [0, 0])
        assert total.weight == 0
        assert not any(values.any() for values in total.arrays.values())
        assert [result.steps for result in results] == [0, 0]


def test_frozen_parameters_are_in_no_sum() -> None:
    model = model_of("mlp")
    model[1].weight.requires_grad_(False)
    for batch_size in (8, 64):
        sums = both_sums(model, ClientSettings(batch_size=batch_size), [9, 16])
        assert_same(*sums)
        assert "1.weight" not in sums[0].arrays
