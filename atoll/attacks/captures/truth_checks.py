"""Checks of a truth: whether its parts go together, and with the capture."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from atoll.attacks.captures.capture import Capture, FederationInfo, Truth
from atoll.clients.data.inputs.base import Inputs
from atoll.clients.data.inputs.images import ImageInputs
from atoll.clients.data.inputs.table import CategoryColumn, TableInputs
from atoll.clients.data.inputs.tokens import TokenInputs
from atoll.clients.tasks.classification import Classification
from atoll.clients.tasks.next_token import IGNORED, NextToken
from atoll.errors import CaptureError


def check_truth(truth: Truth, capture: Capture) -> None:
    """Refuse a truth whose parts do not go together, or not with the capture.

    Raises
    ------
    CaptureError
        Naming what was found, and what was expected.
    """
    where, info = capture.directory or capture.name, capture.federation
    for problem in _problems(truth, info):
        raise CaptureError(f"{where}: {problem}")


def _problems(truth: Truth, info: FederationInfo) -> Iterator[str]:
    """Yield what is wrong, the shapes first: the rest is looked at only where these are right."""
    count = len(truth.labels)
    noun = "pixels" if isinstance(info.inputs, ImageInputs) else "inputs"
    stored = torch.from_numpy(np.empty(0, info.inputs.stored_dtype)).dtype
    yield from _unlike(noun, truth.inputs, stored, (count, *info.inputs.stored_shape))
    blank = info.task.blank_targets(1)
    yield from _unlike("labels", truth.labels, blank.dtype, (count, *blank.shape[1:]))
    outside = [int(i) for batch in truth.batches for i in batch if not 0 <= i < count]
    if outside:
        yield f"a batch of the truth has example {outside[0]}; expected 0 to {count - 1}"
    yield from _wrong_labels(truth.labels, info)
    yield from _wrong_inputs(truth.inputs, info.inputs)


def _unlike(name: str, found: Tensor, dtype: torch.dtype, shape: tuple[int, ...]) -> Iterator[str]:
    if found.dtype != dtype or found.shape != shape:
        yield (
            f"the truth's {name} are {found.dtype} of shape {tuple(found.shape)}; expected {dtype} "
            f"of shape {shape}, for {shape[0]} labels"
        )


def _wrong_labels(labels: Tensor, info: FederationInfo) -> Iterator[str]:
    if isinstance(info.task, NextToken):
        labels = labels[labels != IGNORED]
        yield from _outside("the target", labels, info.task.vocabulary, "tokens")
    elif isinstance(info.task, Classification):
        yield from _outside("the label", labels, info.task.outputs, "classes")
    elif not bool(labels.isfinite().all()):
        yield "has labels that are not finite; expected numbers"


def _wrong_inputs(stored: Tensor, inputs: Inputs) -> Iterator[str]:
    if isinstance(inputs, TokenInputs):
        yield from _outside("the token", stored, inputs.vocabulary, "tokens")
    if isinstance(inputs, TableInputs):
        for place, column in enumerate(inputs.columns):
            if isinstance(column, CategoryColumn):
                values = stored[:, place]
                count = len(column.categories)
                whole = torch.where(values == values.floor(), values, -1.0)
                yield from _outside(f"{column.name!r} =", whole, count, "categories")


def _outside(what: str, values: Tensor, count: int, noun: str) -> Iterator[str]:
    wrong = values[(values < 0) | (values >= count)]
    if len(wrong):
        yield f"has {what} {int(wrong[0])}; expected 0 to {count - 1}, of {count} {noun}"
