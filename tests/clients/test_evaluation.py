from functools import reduce
from operator import add

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from atoll.clients.data.catalog import load_dataset
from atoll.clients.data.store import ImageDataset
from atoll.clients.evaluation import evaluate
from atoll.clients.models.build import build_model
from atoll.clients.settings import ModelSettings


@pytest.fixture
def digits(tmp_path, monkeypatch) -> ImageDataset:
    monkeypatch.setenv("ATOLL_CACHE", str(tmp_path))
    return load_dataset("digits")


def test_evaluation_equals_one_pass_over_all_examples(digits: ImageDataset) -> None:
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
    assert done.loss == pytest.approx(float(F.cross_entropy(logits, labels)), rel=1e-5)
    assert done.accuracy == pytest.approx(float(right.double().mean()), abs=2e-3)
    assert done.per_class_accuracy == pytest.approx(
        [float(right[labels == c].double().mean()) for c in range(10)], abs=0.02
    )


def test_parts_add_up(digits: ImageDataset) -> None:
    model = build_model(ModelSettings(name="mlp"), digits.image_shape, 10, seed=0)
    everything = np.arange(len(digits.test))
    whole = evaluate(model, digits, digits.test, everything)
    parts = [evaluate(model, digits, digits.test, part) for part in np.array_split(everything, 7)]
    total = reduce(add, parts)
    np.testing.assert_array_equal(total.counts, whole.counts)
    np.testing.assert_array_equal(total.counts, np.bincount(digits.test.labels, minlength=10))
    assert total.loss == pytest.approx(whole.loss, rel=1e-6)


def test_nothing_to_evaluate_is_zero_not_an_error(digits: ImageDataset) -> None:
    model = build_model(ModelSettings(name="linear"), digits.image_shape, 10, seed=0)
    done = evaluate(model, digits, digits.test, np.arange(0))
    assert (done.examples, done.loss, done.accuracy) == (0, 0.0, 0.0)
    assert done.per_class_accuracy == [0.0] * 10
