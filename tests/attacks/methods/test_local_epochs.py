"""Inversion of several local epochs: its parts by their properties, and on real updates."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from atoll.attacks.base.attack_building import build_attack
from atoll.attacks.base.group import Group
from atoll.attacks.base.optimization_attack import matching_objective
from atoll.attacks.methods.matching.local_epochs import (
    _with_images_of_epochs,
    average_over_epochs,
    epochs_of,
    order_invariant,
)
from atoll.attacks.optim.matching import cosine
from atoll.attacks.threat.capabilities import Capability, ThreatModel
from atoll.attacks.threat.labels import infer_labels
from atoll.attacks.threat.observation import observe
from atoll.clients.data.catalog.loading import load_dataset
from atoll.errors import AttackError
from tests.support.attacks.attacking import attacked, figures
from tests.support.attacks.real_updates import client_update

SIGMOID = {"name": "lenet-sigmoid"}
CLIENT = {"batch_size": 2, "epochs": 3, "learning_rate": 0.1}


def test_the_true_images_in_the_true_order_have_the_true_update() -> None:
    capture, truth = client_update(SIGMOID, CLIENT, [0, 1, 2, 3, 4])
    observation = observe(capture, ThreatModel.of(Capability.TRAINING))
    assert observation.training is not None
    plan = epochs_of(observation.training, 5)
    assert [[len(batch) for batch in epoch] for epoch in plan] == [[2, 2, 1]] * 3
    group = _with_images_of_epochs(
        Group((observation,), 1, truth.labels[None], "given", seed=0), plan
    )
    order = torch.cat([torch.as_tensor(batch) for batch in truth.batches])
    group = replace(group, labels=truth.labels[order][None])
    pixels = observation.space.normalize(truth.images[order])[None]
    _, matching = matching_objective(group, cosine, lambda values: values[0])([pixels])
    assert matching.item() < 1e-5
    _, other = matching_objective(group, cosine, lambda values: values[0])([pixels.flip(1)])
    assert other.item() > 1e-3


@pytest.mark.parametrize("aggregation", ["mean", "max"])
def test_the_prior_does_not_know_the_order(aggregation: str) -> None:
    generator = torch.Generator().manual_seed(0)
    epoch = torch.randn(4, 1, 6, 6, generator=generator)
    shuffled = epoch[torch.tensor([2, 0, 3, 1])]
    other = torch.randn(4, 1, 6, 6, generator=generator)
    stacks = torch.stack([torch.cat([epoch, shuffled]), torch.cat([epoch, other])])
    prior = order_invariant(2, "mean" if aggregation == "mean" else "max", seed=0)
    same, differs = prior(stacks)
    assert same < 1e-6 < 1e-3 < differs
    assert order_invariant(1, "mean", seed=0)(stacks).tolist() == [0.0, 0.0]


def test_images_are_averaged_with_themselves_within_their_labels() -> None:
    images = torch.rand(4, 1, 5, 5, generator=torch.Generator().manual_seed(0))
    labels = torch.tensor([0, 0, 1, 2])
    order = torch.tensor([3, 1, 0, 2])
    noise = 0.01 * torch.randn(images.shape, generator=torch.Generator().manual_seed(1))
    found = average_over_epochs(
        torch.stack([images, (images + noise)[order]]), torch.stack([labels, labels[order]])
    )
    torch.testing.assert_close(found, images + noise / 2)
    # The images of labels 1 and 2 change places: labels decide, not pixels.
    swapped = torch.stack([images, images])
    found = average_over_epochs(swapped, torch.stack([labels, torch.tensor([0, 0, 2, 1])]))
    torch.testing.assert_close(found[2], (images[2] + images[3]) / 2)


def test_interpolated_labels_allow_for_the_change_of_the_model() -> None:
    labels = load_dataset("digits").test.labels
    right = {"counts": 0, "interpolated": 0}
    for start in range(0, 24, 8):
        indices = list(range(start, start + 8))
        client = {"batch_size": 2, "epochs": 3, "learning_rate": 0.2}
        capture, _ = client_update({"name": "resnet8"}, client, indices)
        observation = observe(capture, ThreatModel.of(Capability.TRAINING))
        true = np.bincount(labels[indices], minlength=10)
        for method in right:
            found = infer_labels(observation, "counts" if method == "counts" else "interpolated")
            counts = np.bincount(found.numpy(), minlength=10)
            assert counts.sum() == 8
            right[method] += int(np.minimum(counts, true).sum())
    assert right["interpolated"] >= right["counts"] + 3


@pytest.mark.slow
def test_it_beats_one_set_of_images_for_all_epochs() -> None:
    client = {"batch_size": 1, "epochs": 2, "learning_rate": 0.1}
    settings = {"steps": 40, "tv": 1e-3, "schedule": "cosine"}
    found = attacked("local-epochs", SIGMOID, [[0, 1, 2]], client, **settings)
    again = attacked("local-epochs", SIGMOID, [[0, 1, 2]], client, **settings)
    assert torch.equal(found[0].images, again[0].images)
    without = attacked("local-epochs", SIGMOID, [[0, 1, 2]], client, invariant=0.0, **settings)
    assert not torch.equal(found[0].images, without[0].images)
    plain = attacked("inverting-gradients", SIGMOID, [[0, 1, 2]], client, **settings)
    assert np.mean(figures(found, "psnr")) > np.mean(figures(plain, "psnr")) + 1


def test_an_order_that_is_given_and_labels_without_a_bias_are_refused() -> None:
    capture, truth = client_update(SIGMOID, CLIENT, [0, 1])
    attack = build_attack("local-epochs", {"batch_order": "given"})
    with pytest.raises(AttackError, match="batch_order = 'given': expected 'assumed'"):
        attack.check(observe(capture, attack.threat, truth=truth))
    biasless = {"name": "tests.support.attacks.black_box_models:no_bias"}
    capture, _ = client_update(biasless, CLIENT, [0, 1])
    with pytest.raises(AttackError, match="need a head with a bias"):
        infer_labels(observe(capture, ThreatModel.of(Capability.TRAINING)), "interpolated")
