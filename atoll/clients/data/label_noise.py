"""Noise of training labels: the data set again, with some labels replaced."""

from __future__ import annotations

import hashlib
import math
import os
import shutil
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from atoll.clients.data.files.cache import cache_root
from atoll.clients.data.files.dataset import Dataset, write_about, write_labels
from atoll.clients.data.inputs.tokens import TokenInputs
from atoll.clients.settings import LabelNoise
from atoll.clients.tasks.classification import Classification
from atoll.clients.tasks.multi_label import MultiLabel
from atoll.errors import InvalidExperimentError
from atoll.files.atomic import appearing
from atoll.randomness import derive_seed

# Standard deviation of an example's own rate (Xia et al., 2020).
RATE_DEVIATION = 0.1
# Examples whose features are in memory at once.
AT_ONCE = 4096


def with_label_noise(dataset: Dataset, noise: LabelNoise, seed: int) -> Dataset:
    """Return a data set with noisy training labels, from the cache if it is there.

    The test labels stay as they are. The examples' files are linked, not copied.

    Parameters
    ----------
    dataset : Dataset
        A classification, or with several labels an example.
    noise : LabelNoise
        ``[data.label_noise]``.
    seed : int
        The run's seed.

    Raises
    ------
    InvalidExperimentError
        If the task has no labels, or the noise is of classes and there are none.
    """
    if not noise.rate:
        return dataset
    labels = noisy_labels(dataset, noise, derive_seed(seed, "label noise"))
    digest = hashlib.sha256(dataset.fingerprint.encode() + labels.tobytes()).hexdigest()
    target = cache_root() / "datasets" / f"{dataset.directory.name}-noise-{digest[:16]}"
    if not (target / "dataset.json").exists():
        with appearing(target) as folder:
            link_examples(dataset.directory, folder)
            write_labels(folder, "train", labels)
            write_about(dataset, dataset.inputs, dataset.task, folder)
    return Dataset(target)


def link_examples(source: Path, target: Path) -> None:
    """Link a data set's files but ``dataset.json`` into another folder; copy where that fails."""
    for file in source.iterdir():
        if file.name == "dataset.json":
            continue
        try:
            os.link(file, target / file.name)
        except OSError:
            shutil.copy2(file, target / file.name)


def noisy_labels(dataset: Dataset, noise: LabelNoise, seed: int) -> NDArray[np.generic]:
    """Return the training labels with noise; see :func:`with_label_noise`."""
    labels, task = dataset.train.labels, dataset.task
    generator = np.random.default_rng(seed)
    if isinstance(task, MultiLabel) and noise.kind == "symmetric":
        flips = generator.random(labels.shape) < noise.rate
        flipped: NDArray[np.float32] = np.where(flips, 1 - labels, labels).astype(np.float32)
        return flipped
    if not isinstance(task, Classification):
        raise InvalidExperimentError(
            f"data.label_noise.kind = {noise.kind!r}: the task of data.dataset = {dataset.name!r} "
            f"is {task.kind}; expected a classification"
        )
    classes = task.outputs
    if noise.kind == "instance":
        return _by_instance(dataset, noise.rate, generator)
    shift = generator.integers(1, classes, len(labels)) if noise.kind == "symmetric" else 1
    is_wrong = generator.random(len(labels)) < noise.rate
    replaced: NDArray[np.int64] = np.where(is_wrong, (labels + shift) % classes, labels)
    return replaced


def _by_instance(
    dataset: Dataset, rate: float, generator: np.random.Generator
) -> NDArray[np.int64]:
    """Return labels replaced by what an example looks like (Xia et al., 2020, algorithm 2).

    An example's own rate is drawn from a normal distribution around ``rate``, cut to [0, 1]. A
    random projection of its features, one for each class, decides which other class it becomes.
    """
    labels, classes = dataset.train.labels, dataset.task.outputs
    rates = generator.normal(rate, RATE_DEVIATION, len(labels)).clip(0, 1)
    features = _Features(dataset, generator)
    projections = generator.standard_normal((classes, features.width, classes)).astype(np.float32)
    uniform = generator.random(len(labels))
    replaced = labels.copy()
    for start in range(0, len(labels), AT_ONCE):
        chosen = np.arange(start, min(start + AT_ONCE, len(labels)))
        found = features.read(chosen)
        for label in range(classes):
            of_label = labels[chosen] == label
            own = chosen[of_label]
            scores = found[of_label] @ projections[label] / math.sqrt(features.width)
            scores[:, label] = -np.inf
            others = np.exp(scores - scores.max(1, keepdims=True, initial=-1e30))
            shares = rates[own, None] * others / others.sum(1, keepdims=True)
            shares[:, label] = 1 - rates[own]
            places = (uniform[own, None] > np.cumsum(shares, 1)).sum(1)
            replaced[own] = np.minimum(places, classes - 1)
    return replaced


class _Features:
    """Features of training examples: the inputs as vectors; of tokens their mean embedding."""

    def __init__(self, dataset: Dataset, generator: np.random.Generator) -> None:
        self._stored, self._inputs = dataset.train.inputs, dataset.inputs
        self._embedding: NDArray[np.float32] | None = None
        self.width = dataset.inputs.numbers(1)
        if isinstance(dataset.inputs, TokenInputs):
            self.width = 64
            shape = dataset.inputs.vocabulary, self.width
            self._embedding = generator.standard_normal(shape).astype(np.float32)

    def read(self, chosen: NDArray[np.int64]) -> NDArray[np.float32]:
        """Return the features of some examples, shape (n, width)."""
        stored = self._stored[chosen]
        if self._embedding is not None:
            mean: NDArray[np.float32] = self._embedding[stored].mean(1)
            return mean
        flat: NDArray[np.float32] = self._inputs.to_tensor(stored).flatten(1).numpy()
        return flat
