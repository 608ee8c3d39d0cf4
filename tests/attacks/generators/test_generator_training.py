"""Our generator's training on real images: what it makes, and that it can be gone on with."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.linalg import sqrtm
from sklearn.decomposition import PCA
from sklearn.svm import SVC

from atoll.attacks.generators.conditional import ConditionalGenerator
from atoll.attacks.generators.vae_training import GeneratorTraining, TrainingSettings
from atoll.clients.data.catalog.loading import load_dataset
from atoll.clients.data.files.dataset import Dataset

SETTINGS = TrainingSettings(steps=250, width=32, latent=16)
SAMPLES = 600


@pytest.fixture(scope="module")
def digits() -> Dataset:
    return load_dataset("digits")


def training_of(digits: Dataset, settings: TrainingSettings) -> GeneratorTraining:
    return GeneratorTraining(digits.train.images, digits.train.labels, 10, settings)


@pytest.fixture(scope="module")
def generator(digits: Dataset) -> ConditionalGenerator:
    training = training_of(digits, SETTINGS)
    while training.step < SETTINGS.steps:
        training.take_step()
    return training.finish()


def flat(images: np.ndarray) -> np.ndarray:
    return images.reshape(len(images), -1) / 255


def samples_of(generator: ConditionalGenerator) -> tuple[np.ndarray, np.ndarray]:
    labels = torch.arange(SAMPLES) % 10
    with torch.no_grad():
        images = generator.sample(labels, torch.Generator().manual_seed(1))
    return images.flatten(1).numpy(), labels.numpy()


def frechet(first: np.ndarray, second: np.ndarray) -> float:
    """The Frechet distance of two Gaussians with the features' means and covariances."""
    difference = first.mean(0) - second.mean(0)
    covariances = [np.cov(features.T) for features in (first, second)]
    root = np.real(sqrtm(covariances[0] @ covariances[1]))
    return float(difference @ difference + np.trace(sum(covariances) - 2 * root))


@pytest.mark.slow
def test_a_classifier_of_real_digits_recognises_what_it_draws(digits, generator) -> None:
    classifier = SVC().fit(flat(digits.train.images), digits.train.labels)
    images, labels = samples_of(generator)
    assert classifier.score(flat(digits.test.images), digits.test.labels) > 0.97
    assert classifier.score(images, labels) > 0.95


@pytest.mark.slow
def test_what_it_draws_is_distributed_as_real_digits(digits, generator) -> None:
    real, unseen = flat(digits.train.images), flat(digits.test.images)
    features = PCA(20, random_state=0).fit(real).transform
    drawn, labels = samples_of(generator)
    means = np.stack([real[digits.train.labels == label].mean(0) for label in range(10)])
    untrained, _ = samples_of(training_of(digits, SETTINGS).generator)
    distance = frechet(features(drawn), features(unseen))
    assert distance < 0.5 * frechet(features(means[labels]), features(unseen))
    assert distance < 0.2 * frechet(features(untrained), features(unseen))


def test_samples_of_a_class_differ(generator) -> None:
    images, labels = samples_of(generator)
    for label in range(10):
        assert images[labels == label].std(0).max() > 0.1


def test_a_class_without_images_keeps_the_prior(digits) -> None:
    few = digits.train.labels < 2
    training = GeneratorTraining(digits.train.images[few], digits.train.labels[few], 3, SETTINGS)
    training.take_step()
    generator = training.finish()
    assert torch.equal(generator.factor[2], torch.eye(16))
    assert not torch.equal(generator.factor[1], torch.eye(16))


def test_resumed_it_ends_at_the_same_bits(digits) -> None:
    settings = TrainingSettings(steps=6, batch_size=8, width=8, latent=4, seed=3)
    whole, first = training_of(digits, settings), training_of(digits, settings)
    for _ in range(6):
        whole.take_step()
    for _ in range(3):
        first.take_step()
    second = training_of(digits, settings)
    second.restore({name: tensor.clone() for name, tensor in first.state().items()})
    for _ in range(3):
        second.take_step()
    assert second.step == 6
    expected, found = whole.finish().state_dict(), second.finish().state_dict()
    assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())
    other = training_of(digits, settings.model_copy(update={"seed": 4}))
    assert not torch.equal(other.generator.last.weight, first.generator.last.weight)
