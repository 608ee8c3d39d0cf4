"""Losses and metrics of a user's own: functions of a batch, with one value for each example."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from atoll.errors import InvalidExperimentError
from atoll.registry import import_attribute
from atoll.user_code.error_places import user_code

LOSS, METRICS = "client.loss", "run.metrics"
# Takes a model's outputs, shape (n, ...), and the labels, shape (n, ...): returns n values.
ExampleFunction = Callable[[Tensor, Tensor], Tensor]


def find_function(reference: str, key: str) -> ExampleFunction:
    """Return a function that an experiment names.

    Parameters
    ----------
    reference : str
        ``module:callable``.
    key : str
        The experiment's key, for errors.

    Raises
    ------
    InvalidExperimentError
        If it cannot be imported, or is no callable.
    """
    found = import_attribute(reference, key)
    if not callable(found):
        raise InvalidExperimentError(
            f"{key} = {reference!r}: is a {type(found).__name__}, expected a callable"
        )
    return found  # type: ignore[no-any-return]


def values_of(
    reference: str,
    key: str,
    outputs: Tensor,
    labels: Tensor,
    function: ExampleFunction | None = None,
) -> Tensor:
    """Return a function's value for each example of a batch, shape (n,).

    Parameters
    ----------
    reference, key
        As for :func:`find_function`.
    outputs, labels : Tensor
        A model's outputs, shape (n, ...), and the labels, shape (n, ...).
    function : callable, optional
        What is found there, where it is called often.

    Raises
    ------
    InvalidExperimentError
        If it returns something else.
    EngineError
        If it raises: with the place in the user's file.
    """
    function = function or find_function(reference, key)
    with user_code(f"{key} = {reference!r}"):
        values: Any = function(outputs, labels)
    if isinstance(values, Tensor) and values.shape == labels.shape[:1]:
        return values
    shown = f"a {type(values).__name__}"
    if isinstance(values, Tensor):
        shown = f"a tensor of shape {tuple(values.shape)}"
    raise InvalidExperimentError(
        f"{key} = {reference!r}: returned {shown}; expected a tensor with a value for each "
        f"example, of shape {tuple(labels.shape[:1])}"
    )


def check_loss(reference: str, outputs: Tensor, labels: Tensor) -> None:
    """Refuse a loss that has no gradient, or not a value for each example.

    Parameters
    ----------
    reference : str
        ``module:callable``.
    outputs, labels : Tensor
        For some examples; not changed.
    """
    values = values_of(reference, LOSS, outputs.detach().requires_grad_(), labels)
    if not values.requires_grad:
        raise InvalidExperimentError(
            f"{LOSS} = {reference!r}: its values do not depend on the outputs by autograd; "
            "expected a function of torch's, without detach() or numpy()"
        )


def check_metrics(references: Sequence[str], outputs: Tensor, labels: Tensor) -> None:
    """Refuse metrics that have not a value for each example; the parameters are those of losses."""
    for reference in references:
        with torch.no_grad():
            values_of(reference, METRICS, outputs, labels)


def name_of(reference: str) -> str:
    """Return what a metric is called in tables: the callable's name."""
    return reference.rpartition(":")[2].rpartition(".")[2]
