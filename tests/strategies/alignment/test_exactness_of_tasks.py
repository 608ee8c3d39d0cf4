"""Federated == centralised on other tasks: regressions, several labels, and text."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch.nn.functional as F
from torch import Tensor

from atoll.clients import Classification, MultiLabel, Regression, TokenInputs
from atoll.clients.data.files.dataset import Decoded, Split
from tests.strategies.alignment.test_exactness import (
    METHODS,
    SEEDED,
    TOLERANCE,
    assert_equal,
    federated_gradient,
)
from tests.support.strategies import centralised as c
from tests.support.strategies.small_federation import LAYOUTS, make_federation

pytestmark = pytest.mark.slow

LAYOUT = LAYOUTS["several domains on a client"]
# CMA is about classes, and quantiles and probes of the losses' own are tested with classes.
LEFT_OUT = ("CMA", *SEEDED)
VOCABULARY, LENGTH = 12, 9


def with_numbers(loss: str) -> Callable[[Decoded], Decoded]:
    """Numbers to predict in the labels' place."""

    def change(decoded: Decoded) -> Decoded:
        targets = (decoded.train.labels + decoded.train.inputs[:, 0, 0, 0] % 3).astype(np.float32)
        split = replace(decoded.train, labels=targets)
        task = Regression(loss=loss, center=0.7, scale=1.3)  # type: ignore[arg-type]
        return replace(decoded, train=split, test=split, task=task)

    return change


def with_labels(decoded: Decoded) -> Decoded:
    """Two labels of each example in the place of one."""
    first, second = decoded.train.labels > 0, decoded.train.inputs[:, 0, 0, 0] % 2 == 0
    targets = np.stack([first, second], 1).astype(np.float32)
    split = replace(decoded.train, labels=targets)
    return replace(decoded, train=split, test=split, task=MultiLabel(labels=("a", "b")))


def as_text(decoded: Decoded) -> Decoded:
    """Tokens in the images' place, the last of them padding."""
    tokens = 1 + decoded.train.inputs.reshape(-1, LENGTH).astype(np.int32) % (VOCABULARY - 1)
    tokens[:, -2:] = 0
    split = Split(tokens, decoded.train.labels, decoded.train.domains)
    inputs = TokenInputs(length=LENGTH, vocabulary=VOCABULARY)
    classes = Classification(classes=("a", "b", "c"))
    return replace(decoded, train=split, test=split, inputs=inputs, task=classes)


def standardised(targets: Tensor) -> Tensor:
    return (targets.double() - 0.7) / 1.3


def squared(outputs: Tensor, targets: Tensor) -> Tensor:
    return 0.5 * (outputs[:, 0] - standardised(targets)) ** 2


def huber(outputs: Tensor, targets: Tensor) -> Tensor:
    return F.huber_loss(outputs[:, 0], standardised(targets), reduction="none")


def poisson(outputs: Tensor, targets: Tensor) -> Tensor:
    return outputs[:, 0].exp() - targets.double() * outputs[:, 0]


def labels(outputs: Tensor, targets: Tensor) -> Tensor:
    losses = F.binary_cross_entropy_with_logits(outputs, targets.double(), reduction="none")
    return losses.mean(1)


TASKS: dict[str, tuple[Callable[[Decoded], Decoded], str, c.Losses]] = {
    "squared": (with_numbers("squared"), "double_regression", squared),
    "huber": (with_numbers("huber"), "double_regression", huber),
    "poisson": (with_numbers("poisson"), "double_regression", poisson),
    "several labels": (with_labels, "double_regression", labels),
    "text": (as_text, "bag_of_tokens", c.losses_of),
}


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("method", [name for name in METHODS if name not in LEFT_OUT])
def test_the_federated_gradient_is_the_centralised_one(
    method: str, task: str, tmp_path: Path
) -> None:
    change, model, losses = TASKS[task]
    federation = make_federation(tmp_path, LAYOUT, model=model, as_task=change)
    name, arguments, penalty, weight = METHODS[method]
    given = (federation.model, federation.data, penalty, weight, "uniform")
    expected = c.objective_gradient(*given, l2=0.01, losses=losses)
    arguments = {**arguments, "domain_weights": "uniform", "l2": 0.01}
    found = federated_gradient(federation, name, arguments)
    size = max(1.0, *(float(value.abs().max()) for value in expected.values()))
    assert_equal(found, expected, 1e-6 if method == "EQRM" else TOLERANCE * size)
    if weight:
        given = (federation.model, federation.data, c.none, 0.0, "uniform")
        plain = c.objective_gradient(*given, l2=0.01, losses=losses)
        distance = max(float((plain[k] - v).abs().max()) for k, v in expected.items())
        assert distance > 1e-7, "the penalty changes nothing, so nothing was tested"
