from functools import reduce
from operator import add

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sklearn.metrics import confusion_matrix

from atoll.clients.data.catalog.loading import load_dataset
from atoll.clients.data.files.dataset import Dataset
from atoll.clients.data.partitioning.domains import (
    test_sets as domain_sets,  # pytest would collect it
)
from atoll.clients.models.model_building import build_model
from atoll.clients.settings import ModelSettings
from atoll.clients.tasks.classification import Classification
from atoll.clients.training.evaluation import evaluate, metrics_by_domain


@pytest.fixture
def digits(tmp_path, monkeypatch) -> Dataset:
    monkeypatch.setenv("ATOLL_CACHE", str(tmp_path))
    return load_dataset("digits")


def test_evaluation_equals_one_pass_over_all_examples(digits: Dataset) -> None:
    model = build_model(ModelSettings(name="cnn-pfl"), digits.image_shape, 10, seed=0)
    model.train()
    done = evaluate(model, digits, digits.train, np.arange(len(digits.train)))
    pixels = torch.from_numpy(digits.train.images.copy()).permute(0, 3, 1, 2).double() / 255
    images = (pixels - digits.mean[0]) / digits.std[0]
    labels = torch.from_numpy(digits.train.labels.copy())
    model.eval()
    with torch.no_grad():
        logits = model(images.float()).double()
    right = logits.argmax(1) == labels
    assert done.examples == len(digits.train) == 1437
    assert done["loss"] == pytest.approx(float(F.cross_entropy(logits, labels)), rel=1e-5)
    assert done["accuracy"] == pytest.approx(float(right.double().mean()), abs=2e-3)
    assert done["per_class_accuracy"] == pytest.approx(
        [float(right[labels == c].double().mean()) for c in range(10)], abs=0.02
    )


def test_confusion_is_that_of_scikit_learn_and_adds_up(digits: Dataset) -> None:
    model = build_model(ModelSettings(name="linear"), digits.image_shape, 10, seed=0)
    parts = [
        evaluate(model, digits, digits.test, part) for part in (np.arange(9), np.arange(9, 300))
    ]
    pixels = torch.from_numpy(digits.test.images[:300].copy()).permute(0, 3, 1, 2).float() / 255
    with torch.no_grad():
        predicted = model((pixels - digits.mean[0]) / digits.std[0]).argmax(1).numpy()
    expected = confusion_matrix(digits.test.labels[:300], predicted, labels=range(10))
    assert np.array_equal((parts[0] + parts[1]).confusion, expected)
    two = Classification(classes=("a", "b"))
    known = two.measure(torch.eye(3)[:2], torch.tensor([0, 1]))
    unknown = two.measure(torch.eye(3)[2:], torch.tensor([1]))
    assert "confusion" in known.sums
    assert "confusion" not in (known + unknown).sums
    many = Classification(classes=tuple(map(str, range(101))))
    assert "confusion" not in many.measure(torch.zeros(1, 101), torch.tensor([0])).sums


def test_a_sigmoid_head_is_evaluated_as_two_classes(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("ATOLL_CACHE", str(tmp_path))
    data = load_dataset("colored-digits", seed=1)
    model = build_model(ModelSettings(name="mlp-irm", hidden=8), data.image_shape, 2, seed=0)
    done = evaluate(model, data, data.test, np.arange(len(data.test)))
    images = torch.from_numpy(data.test.images.copy()).permute(0, 3, 1, 2) / 255
    labels = torch.from_numpy(data.test.labels.copy())
    with torch.no_grad():
        chance = torch.sigmoid(model(images).double()).squeeze(1)
    likelihood = torch.where(labels == 1, chance, 1 - chance)
    assert done["loss"] == pytest.approx(float(-likelihood.log().mean()), rel=1e-5)
    assert done["accuracy"] == pytest.approx(float((likelihood > 0.5).double().mean()))


def test_metrics_are_by_domain_and_held_out_domains_are_the_headline(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("ATOLL_CACHE", str(tmp_path))
    data = load_dataset("colored-digits", seed=1)
    sets = domain_sets(data, ("e0.9",), None)
    model = build_model(ModelSettings(name="mlp-irm", hidden=8), data.image_shape, 2, seed=0)
    done = [evaluate(model, data, data.test, own) for own in sets.indices]
    metrics = metrics_by_domain(sets, done)
    assert metrics["accuracy"] == metrics["accuracy_e0.9"] == done[2]["accuracy"]
    assert metrics["validation_accuracy"] == pytest.approx(
        (done[0]["accuracy"] + done[1]["accuracy"]) / 2
    )
    assert metrics["loss_grey"] == done[3]["loss"]


def test_parts_add_up(digits: Dataset) -> None:
    model = build_model(ModelSettings(name="mlp"), digits.image_shape, 10, seed=0)
    everything = np.arange(len(digits.test))
    whole = evaluate(model, digits, digits.test, everything)
    parts = [evaluate(model, digits, digits.test, part) for part in np.array_split(everything, 7)]
    total = reduce(add, parts)
    np.testing.assert_array_equal(total.measured.sums["counts"], whole.measured.sums["counts"])
    np.testing.assert_array_equal(
        total.measured.sums["counts"], np.bincount(digits.test.labels, minlength=10)
    )
    assert total["loss"] == pytest.approx(whole["loss"], rel=1e-6)


def test_nothing_to_evaluate_is_zero_not_an_error(digits: Dataset) -> None:
    model = build_model(ModelSettings(name="linear"), digits.image_shape, 10, seed=0)
    done = evaluate(model, digits, digits.test, np.arange(0))
    assert (done.examples, done["loss"], done["accuracy"]) == (0, 0.0, 0.0)
    assert done["per_class_accuracy"] == [0.0] * 10
