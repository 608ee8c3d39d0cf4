"""Losses and metrics of tasks against PyTorch and scikit-learn, and that measurements add up."""

from __future__ import annotations

import math
from functools import reduce
from operator import add

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from sklearn import metrics as reference
from torch import Tensor

from atoll.clients import Classification, MultiLabel, NextToken, Regression, Task
from atoll.clients.tasks.directions import DIRECTIONS, direction_of
from atoll.clients.tasks.ranking import area_under_roc, average_precision

TASKS: list[Task] = [
    Classification(classes=("a", "b", "c")),
    Classification(classes=("no", "yes")),
    MultiLabel(labels=("a", "b", "c")),
    Regression(loss="squared", center=3.0, scale=2.0),
    Regression(loss="absolute"),
    Regression(loss="huber", scale=0.5),
    Regression(loss="poisson"),
    NextToken(vocabulary=5, length=4),
]


def drawn(task: Task, count: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Outputs and targets at random."""
    generator = torch.Generator().manual_seed(seed)
    outputs = torch.randn(count, *task.output_shape, generator=generator)
    blank = task.blank_targets(count)
    if isinstance(task, Regression):
        return outputs, torch.randint(0, 9, blank.shape, generator=generator).float()
    high = 2 if isinstance(task, MultiLabel) else task.outputs
    targets = torch.randint(0, high, blank.shape, generator=generator).to(blank.dtype)
    if isinstance(task, NextToken):
        targets[torch.rand(targets.shape, generator=generator) < 0.3] = -100
    return outputs, targets


@pytest.mark.parametrize("task", TASKS, ids=repr)
def test_measurements_of_parts_add_up_to_those_of_all(task: Task) -> None:
    outputs, targets = drawn(task, 57)
    whole = task.summarise(task.measure(outputs, targets))
    parts = zip(outputs.split(10), targets.split(10), strict=True)
    total = task.summarise(reduce(add, [task.measure(*part) for part in parts]))
    assert set(task.metrics) | {"per_class_accuracy"} >= set(whole)
    for name, value in whole.items():
        assert total[name] == pytest.approx(value, rel=1e-12, abs=1e-12), name


@pytest.mark.parametrize("task", TASKS, ids=repr)
def test_nothing_measured_is_finite(task: Task) -> None:
    empty = torch.zeros(0, *task.output_shape)
    for value in task.summarise(task.measure(empty, task.blank_targets(0))).values():
        assert np.isfinite(value).all()


@pytest.mark.parametrize("task", TASKS, ids=repr)
def test_the_mean_loss_is_the_mean_of_the_losses(task: Task) -> None:
    outputs, targets = drawn(task, 20)
    assert task.losses(outputs, targets).shape == (20,)
    expected = task.losses(outputs, targets).mean()
    torch.testing.assert_close(task.mean_loss(outputs, targets), expected)


@pytest.mark.parametrize("task", TASKS, ids=repr)
def test_every_metric_has_a_direction_and_outputs_are_checked(task: Task) -> None:
    assert all(name in DIRECTIONS for name in (*task.metrics, *task.means))
    task.check_outputs(torch.zeros(2, *task.output_shape))
    with pytest.raises(ValueError, match="outputs of shape"):
        task.check_outputs(torch.zeros(2, *task.output_shape, 3))
    assert type(task).model_validate_json(task.model_dump_json()) == task


def test_two_classes_are_ranked_as_by_scikit_learn() -> None:
    task = Classification(classes=("no", "yes"))
    outputs, targets = drawn(task, 200)
    found = task.summarise(task.measure(outputs, targets))
    scores = torch.softmax(outputs.double(), -1)[:, 1].numpy()
    predicted = outputs.argmax(-1).numpy()
    assert found["auroc"] == pytest.approx(reference.roc_auc_score(targets, scores), rel=1e-12)
    precision = reference.average_precision_score(targets, scores)
    assert found["auprc"] == pytest.approx(precision, rel=1e-12)
    assert found["f1"] == pytest.approx(reference.f1_score(targets, predicted), rel=1e-12)
    assert found["accuracy"] == pytest.approx(reference.accuracy_score(targets, predicted))
    one_logit = outputs[:, 1:] - outputs[:, :1]
    again = task.summarise(task.measure(one_logit, targets))
    assert again["auroc"] == pytest.approx(found["auroc"], abs=1e-9)
    assert again["calibration_error"] == pytest.approx(found["calibration_error"], abs=1e-6)


@given(st.lists(st.tuples(st.integers(0, 6), st.booleans()), min_size=2, max_size=60))
def test_areas_are_those_of_scikit_learn_with_ties_too(rows: list[tuple[int, bool]]) -> None:
    scores = np.array([score for score, _ in rows], np.float64)
    labels = np.array([label for _, label in rows])
    if 0 < labels.sum() < len(labels):
        assert area_under_roc(scores, labels) == pytest.approx(
            reference.roc_auc_score(labels, scores)
        )
    if labels.any():
        assert average_precision(scores, labels) == pytest.approx(
            reference.average_precision_score(labels, scores)
        )


def test_the_calibration_error_is_that_of_its_definition() -> None:
    task = Classification(classes=("a", "b", "c"))
    outputs, targets = drawn(task, 300)
    confidence, predicted = torch.softmax(outputs.double(), -1).max(-1)
    right = (predicted == targets).double()
    expected = 0.0
    for low in np.arange(15) / 15:
        inside = (confidence >= low) & (confidence < low + 1 / 15)
        if inside.any():
            gap = abs(float(right[inside].mean() - confidence[inside].mean()))
            expected += gap * float(inside.double().mean())
    found = task.summarise(task.measure(outputs, targets))
    assert found["calibration_error"] == pytest.approx(expected, abs=1e-12)


def test_regression_metrics_are_those_of_scikit_learn() -> None:
    task = Regression(center=3.0, scale=2.0)
    outputs, targets = drawn(task, 100)
    predicted = task.predictions(outputs.double()).numpy()
    found = task.summarise(task.measure(outputs, targets))
    assert found["mae"] == pytest.approx(reference.mean_absolute_error(targets, predicted))
    assert found["rmse"] == pytest.approx(reference.root_mean_squared_error(targets, predicted))
    assert found["r2"] == pytest.approx(reference.r2_score(targets, predicted))
    counts = Regression(loss="poisson")
    rates = counts.predictions(outputs.double()).numpy()
    deviance = counts.summarise(counts.measure(outputs, targets))["deviance"]
    assert deviance == pytest.approx(reference.mean_poisson_deviance(targets, rates))


def test_losses_are_pytorchs() -> None:
    for name, function in (
        ("absolute", F.l1_loss),
        ("huber", F.huber_loss),
        ("poisson", F.poisson_nll_loss),
    ):
        task = Regression(loss=name)
        outputs, targets = drawn(task, 30)
        torch.testing.assert_close(
            task.mean_loss(outputs, targets), function(outputs[:, 0], targets)
        )
    squared = Regression()
    outputs, targets = drawn(squared, 30)
    expected = 0.5 * F.mse_loss(outputs[:, 0], targets)
    torch.testing.assert_close(squared.mean_loss(outputs, targets), expected)


def test_padding_counts_for_nothing() -> None:
    task = NextToken(vocabulary=5, length=4)
    outputs, targets = drawn(task, 40)
    found = task.summarise(task.measure(outputs, targets))
    loss = float(F.cross_entropy(outputs.double().flatten(0, 1), targets.flatten()))
    assert found["loss"] == pytest.approx(loss)
    assert found["perplexity"] == pytest.approx(math.exp(loss))
    kept = targets != -100
    assert found["accuracy"] == pytest.approx(
        float((outputs.argmax(-1) == targets)[kept].double().mean())
    )
    changed = outputs.clone()
    changed[~kept] = 100.0
    torch.testing.assert_close(task.losses(changed, targets), task.losses(outputs, targets))


def test_directions_are_found_in_the_names_of_columns() -> None:
    assert direction_of("server_accuracy_e0.1") == "higher"
    assert direction_of("validation_calibration_error") == "lower"
    assert direction_of("server_rmse") == "lower"
    assert direction_of("seconds") is None
