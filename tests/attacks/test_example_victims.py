"""Example victims: captures made without a federation are those of real training."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from atoll.attacks import diagnose, example_victim
from atoll.clients import ClientSettings, ModelSettings, load_dataset
from atoll.errors import AttackError


@pytest.mark.parametrize(
    ("model", "client"),
    [
        ({"name": "mlp"}, {"batch_size": 1, "learning_rate": 0.1}),
        ({"name": "linear"}, {"batch_size": 4, "epochs": 2, "momentum": 0.9}),
        ({"name": "mlp"}, {"batch_size": 5, "optimizer": "adam", "learning_rate": 1e-3}),
        ({"name": "mlp"}, {"batch_size": 4, "proximal_mu": 0.1, "epochs": 2}),
    ],
)
def test_the_capture_is_that_of_the_clients_training(
    model: dict[str, Any], client: dict[str, Any]
) -> None:
    victim = example_victim(ModelSettings(**model), ClientSettings(**client), examples=8, seed=3)
    diagnosis = diagnose(victim.capture, victim.truth)
    assert diagnosis.consistent, diagnosis.advice
    assert diagnosis.cosine == pytest.approx(1.0, abs=1e-12)


def test_one_seed_gives_one_victim_and_leaves_the_global_generator_alone() -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    first, second = example_victim(seed=1), example_victim(seed=1)
    assert torch.equal(torch.rand(3), expected)
    for name, values in first.capture.update.items():
        assert torch.equal(values, second.capture.update[name])
    assert not torch.equal(first.truth.pixels, example_victim(seed=2).truth.pixels)


def test_the_truth_is_of_the_training_split() -> None:
    victim = example_victim(examples=6, seed=4)
    train = load_dataset("digits").train
    places = victim.truth.indices.numpy()
    assert len(set(places.tolist())) == 6
    assert (victim.truth.pixels.numpy() == train.images[places]).all()
    assert (victim.truth.labels.numpy() == train.labels[places]).all()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"client": ClientSettings(mods=("top-k",))}, "client.mods"),
        ({"model": ModelSettings(name="noprop-dt")}, "layer by layer"),
        ({"examples": 0}, "expected 1 to 1437"),
        ({"examples": 2000}, "expected 1 to 1437"),
    ],
)
def test_what_cannot_be_made_is_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(AttackError, match=message):
        example_victim(**arguments)
