"""Noise of labels: its rates, what it leaves alone, and that it depends on the seed alone."""

from __future__ import annotations

import numpy as np
import pytest

from atoll.clients import Dataset, LabelNoise, load_dataset
from atoll.clients.data.files.dataset import Decoded, Split, write_dataset
from atoll.clients.data.label_noise import noisy_labels, with_label_noise
from atoll.clients.tasks.multi_label import MultiLabel
from atoll.clients.tasks.regression import Regression
from atoll.errors import InvalidExperimentError


def with_task(folder, task, labels) -> Dataset:
    images = np.zeros((len(labels), 2, 2, 1), np.uint8)
    split = Split(images, labels)
    folder.mkdir()
    write_dataset("small", Decoded(task, split, split), folder)
    return Dataset(folder)


@pytest.mark.parametrize("rate", [0.2, 0.6])
@pytest.mark.parametrize("kind", ["symmetric", "pair-flip", "instance"])
def test_a_share_of_the_training_labels_is_replaced(kind, rate, tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("ATOLL_CACHE", str(tmp_path))
    digits = load_dataset("digits")
    noisy = with_label_noise(digits, LabelNoise(kind=kind, rate=rate), seed=1)
    true, found = digits.train.labels, noisy.train.labels
    wrong = true != found
    assert wrong.mean() == pytest.approx(rate, abs=0.04)
    np.testing.assert_array_equal(noisy.test.labels, digits.test.labels)
    np.testing.assert_array_equal(noisy.train.inputs, digits.train.inputs)
    assert noisy.fingerprint == digits.fingerprint
    assert with_label_noise(digits, LabelNoise(kind=kind, rate=0.0), seed=1) is digits
    if kind == "pair-flip":
        np.testing.assert_array_equal(found[wrong], (true[wrong] + 1) % 10)
    if kind == "symmetric" and rate == 0.6:
        counts = np.bincount((found[wrong] - true[wrong]) % 10, minlength=10)
        assert counts[0] == 0
        assert counts[1:].min() > 0.6 * counts[1:].mean()


def test_noise_by_instance_depends_on_the_image(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("ATOLL_CACHE", str(tmp_path))
    digits = load_dataset("digits")
    noise = LabelNoise(kind="instance", rate=0.5)
    first, second = (noisy_labels(digits, noise, seed=3) for _ in range(2))
    np.testing.assert_array_equal(first, second)
    # Per true class the wrong labels are far from uniform over the others.
    shares = []
    for label in range(10):
        wrong = first[(digits.train.labels == label) & (first != label)]
        shares.append(np.bincount(wrong, minlength=10).max() / len(wrong))
    assert np.mean(shares) > 0.2


def test_the_cache_is_used_and_another_seed_is_another_data_set(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("ATOLL_CACHE", str(tmp_path))
    digits = load_dataset("digits")
    noise = LabelNoise(rate=0.2)
    first, again, other = (with_label_noise(digits, noise, s).directory for s in (1, 1, 2))
    assert first == again != other


def test_several_labels_flip_one_by_one_and_numbers_have_none(tmp_path) -> None:
    labels = np.zeros((4000, 3), np.float32)
    several = with_task(tmp_path / "several", MultiLabel(labels=("a", "b", "c")), labels)
    found = noisy_labels(several, LabelNoise(rate=0.3), seed=0)
    assert found.mean() == pytest.approx(0.3, abs=0.02)
    for dataset, kind in (
        (several, "pair-flip"),
        (with_task(tmp_path / "numbers", Regression(), labels[:, 0]), "symmetric"),
    ):
        with pytest.raises(InvalidExperimentError, match=r"data.label_noise.kind = "):
            noisy_labels(dataset, LabelNoise(kind=kind, rate=0.3), seed=0)
