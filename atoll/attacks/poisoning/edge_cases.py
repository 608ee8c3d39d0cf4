"""Backdoor of edge cases: rare examples of one class that are to be classed as another."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from atoll.attacks.poisoning.example_poison import Class, ExamplePoison, SomeShare, check_class
from atoll.attacks.poisoning.poison import classes_of, opened
from atoll.clients.data.files.dataset import Dataset, Split
from atoll.clients.data.inputs.base import Inputs

# Examples whose inputs are in memory at once.
AT_ONCE = 4096


class EdgeCaseBackdoor(ExamplePoison):
    """Rare examples of one class, labelled as another (Wang et al., 2020, "Attack of the Tails").

    The paper's edge cases come from other data sets (aircraft of one airline, digits of old
    handwriting). Here they are the tail of a class: of the training examples of ``source``, the
    share ``tail`` that is farthest from the class's mean, in pixels. An attacker's client puts
    them, labelled ``target``, in the place of a share of its own examples. Honest clients that
    hold some of them have them with their true label. The success is the share of the tail of
    ``source`` in the test data that is classed as ``target``.

    Attributes
    ----------
    source, target : int
        Class of the examples, and the class that the attacker wants.
    tail : float
        The share of the class's examples that are edge cases.
    poison_share : float
        The share of a client's examples that are replaced.

    Examples
    --------
    >>> from atoll.attacks import EdgeCaseBackdoor
    >>> EdgeCaseBackdoor(nodes=(1,), source=7, target=1).tail
    0.05
    """

    name: ClassVar[str] = "edge-case-backdoor"
    has_goal: ClassVar[bool] = True

    source: Class = 0
    target: Class = 1
    tail: SomeShare = 0.05
    poison_share: SomeShare = 0.5

    def change(
        self, inputs: Tensor, labels: Tensor, generator: torch.Generator, node: int
    ) -> tuple[Tensor, Tensor]:
        """Replace a share of the examples by edge cases, drawn with replacement."""
        count = max(1, round(self.poison_share * len(labels))) if len(labels) else 0
        data = self.data()
        edge = _training_tail(data.directory, self.source, self.tail)
        drawn = torch.randint(len(edge), (count,), generator=generator).numpy()
        chosen = torch.randperm(len(labels), generator=generator)[:count].to(labels.device)
        inputs, labels = inputs.clone(), labels.clone()
        inputs[chosen] = data.inputs.to_tensor(data.train.inputs[edge[drawn]]).to(inputs)
        labels[chosen] = self.target
        return inputs, labels

    def aims(self, data: Dataset, indices: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the tail of the class among the examples."""
        of_class = indices[data.test.labels[indices] == self.source]
        return tail_of(data.inputs, data.test, of_class, class_mean(data, self.source), self.tail)

    def goal(self, data: Dataset, chosen: NDArray[np.int64]) -> tuple[Tensor, Tensor]:
        """Return examples as they are, and the target."""
        images = data.inputs.to_tensor(data.test.inputs[chosen])
        return images, torch.full((len(chosen),), self.target)

    def check_data(self, data: Dataset, model: nn.Module) -> None:
        """Refuse classes that there are not, and inputs that have no mean."""
        classes = classes_of(data)
        for name, value in (("source", self.source), ("target", self.target)):
            check_class(name, value, classes)
        if self.source == self.target:
            raise ValueError(f"target = {self.target}: is the source; expected another class")
        if not data.inputs.dtype.is_floating_point:
            raise ValueError(
                f"its edge cases are far from a mean, and inputs are {data.inputs.described}"
            )


def class_mean(data: Dataset, label: int) -> Tensor:
    """Return the mean of a class's training inputs, as a vector in float64."""
    chosen = np.flatnonzero(data.train.labels == label)
    total = torch.zeros(data.inputs.numbers(1), dtype=torch.float64)
    for start in range(0, len(chosen), AT_ONCE):
        stored = data.train.inputs[chosen[start : start + AT_ONCE]]
        total += data.inputs.to_tensor(stored).flatten(1).double().sum(0)
    return total / max(1, len(chosen))


def tail_of(
    inputs: Inputs, split: Split, chosen: NDArray[np.int64], mean: Tensor, share: float
) -> NDArray[np.int64]:
    """Return the share of some examples that is farthest from a mean, at least one, in order."""
    distances = [
        torch.linalg.vector_norm(
            inputs.to_tensor(split.inputs[chosen[start : start + AT_ONCE]]).flatten(1).double()
            - mean,
            dim=1,
        )
        for start in range(0, len(chosen), AT_ONCE)
    ]
    count = min(len(chosen), max(1, round(share * len(chosen))))
    if not count:
        return chosen
    order = np.argsort(-torch.cat(distances).numpy(), kind="stable")[:count]
    return np.sort(chosen[order])


@lru_cache(maxsize=4)
def _training_tail(folder: Path, label: int, share: float) -> NDArray[np.int64]:
    data = opened(folder)
    of_class = np.flatnonzero(data.train.labels == label)
    return tail_of(data.inputs, data.train, of_class, class_mean(data, label), share)
