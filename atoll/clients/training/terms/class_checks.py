"""Checks of terms that are about the classes of a softmax."""

from __future__ import annotations

import torch
from torch import Tensor

from atoll.clients.settings import ClientSettings
from atoll.clients.tasks.classification import Classification
from atoll.clients.tasks.losses import is_sigmoid
from atoll.clients.tasks.task import Task


def check_classes(task: Task, settings: ClientSettings) -> None:
    """Refuse tasks without classes, and a loss that is not the cross-entropy.

    Raises
    ------
    ValueError
        With what it is and what was expected.
    """
    if not isinstance(task, Classification):
        raise ValueError(f"it is about classes, and the task is a {task.kind}; expected classes")
    if settings.loss is not None:
        raise ValueError(
            f"it changes the cross-entropy, and client.loss = {settings.loss!r} replaces that; "
            "expected one without the other"
        )


def log_probabilities(outputs: Tensor) -> Tensor:
    """Return the classes' log-probabilities, shape (n, classes).

    Raises
    ------
    ValueError
        If there is one output for two classes.
    """
    if is_sigmoid(outputs):
        raise ValueError("the model has one output for two classes; expected one a class")
    return torch.log_softmax(outputs, -1)


def class_counts(labels: Tensor, classes: int) -> Tensor:
    """Return how many of a client's examples are of each class: float32, shape (classes,)."""
    return torch.bincount(labels.reshape(-1), minlength=classes).float()
