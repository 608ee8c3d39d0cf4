"""Labels read off real clients' updates."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from atoll.attacks.threat.capabilities import Capability, ThreatModel
from atoll.attacks.threat.labels import infer_labels, label_counts
from atoll.attacks.threat.observation import Observation, observe
from atoll.clients.data.catalog.loading import load_dataset
from atoll.errors import AttackError
from tests.support.attacks.real_updates import client_update

MODELS = [
    {"name": "lenet-sigmoid"},
    {"name": "resnet8"},
    {"name": "resnet8", "norm": "batch"},
    {"name": "lenet"},
]


def observed(model: dict[str, object], indices: list[int], **client: object) -> Observation:
    capture, _ = client_update(model, {"batch_size": len(indices), **client}, indices)
    return observe(capture, ThreatModel.of(Capability.TRAINING))


def labels_at(indices: list[int]) -> list[int]:
    return sorted(int(label) for label in load_dataset("digits").test.labels[indices])


@pytest.mark.parametrize("model", MODELS)
def test_the_label_of_one_image_is_certain(model: dict[str, object]) -> None:
    for index in range(6):
        assert infer_labels(observed(model, [index])).tolist() == labels_at([index])


def test_distinct_labels_of_a_batch() -> None:
    labels = load_dataset("digits").test.labels
    indices = [int(np.flatnonzero(labels == label)[0]) for label in (1, 4, 5, 8)]
    found = infer_labels(observed({"name": "resnet8"}, indices), "gradinversion")
    assert found.tolist() == [1, 4, 5, 8]


@pytest.mark.parametrize("model", MODELS)
def test_repeated_labels_are_counted(model: dict[str, object]) -> None:
    right = 0
    for start in range(0, 60, 12):
        indices = list(range(start, start + 12))
        counts = label_counts(observed(model, indices))
        assert int(counts.sum()) == 12
        true = np.bincount(labels_at(indices), minlength=10)
        right += int(np.minimum(counts.numpy(), true).sum())
    assert right >= 0.9 * 60


def test_counts_survive_several_local_steps() -> None:
    indices = [0, 1, 2, 3, 4, 5]
    found = observed({"name": "resnet8"}, indices, batch_size=2, epochs=2, learning_rate=0.01)
    assert infer_labels(found).tolist() == labels_at(indices)


def test_without_a_bias_rows_that_fall_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    model = {"name": "tests.support.attacks.black_box_models:no_bias"}
    indices = [0, 1, 2, 3, 4, 5, 6, 7]
    found = infer_labels(observed(model, indices)).tolist()
    true = labels_at(indices)
    common = sum(min(found.count(label), true.count(label)) for label in range(10))
    assert common >= 7


def test_methods_that_do_not_fit_are_refused() -> None:
    pair = observed({"name": "mlp"}, [0, 1])
    with pytest.raises(AttackError, match="by 'idlg' of 2 images; expected one image"):
        infer_labels(pair, "idlg")
    many = observed({"name": "mlp"}, list(range(11)))
    with pytest.raises(AttackError, match="of 11 images of 10 classes; expected at most one"):
        infer_labels(many, "gradinversion")
    convolution = observed({"name": "tests.support.attacks.black_box_models:no_linear_head"}, [0])
    with pytest.raises(AttackError, match="head"):
        infer_labels(convolution)
    torch.testing.assert_close(label_counts(pair).sum(), torch.tensor(2))
