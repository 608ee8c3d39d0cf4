"""Evaluation as counts that add up, so that batches can be evaluated anywhere and summed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import reduce
from operator import add
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from atoll.clients.data.image_dataset import Split
from atoll.clients.data.image_tensors import to_tensor
from atoll.clients.data.partitioning.domains import TestSets
from atoll.clients.tasks.losses import losses_of, predictions_of
from atoll.clients.tasks.user_functions import METRICS, name_of, values_of

# Examples at once, and fewer of images with more values than those of 64x64 in colour: a deep
# network's activations of 512 photographs would not fit into memory.
BATCH, BATCH_VALUES = 512, 512 * 3 * 64 * 64
# With more classes nobody reads a matrix of them, and it would be large.
MOST_CONFUSED = 100
# The way of inference that the metrics "accuracy" and "loss" are of.
MAIN = "mean"

Metrics = dict[str, int | float | list[int] | list[float]]


class ModelInputs(Protocol):
    """What a model is given and tells apart; a data set has these attributes."""

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Channels, height and width."""

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the labels."""

    @property
    def mean(self) -> tuple[float, ...]:
        """Per channel, in units of [0, 1]: what is subtracted."""

    @property
    def std(self) -> tuple[float, ...]:
        """Per channel: what is divided by."""


@dataclass(frozen=True)
class Evaluation:
    """Counts of an evaluation on some examples; they add up.

    Attributes
    ----------
    correct, counts : NDArray[int64]
        Per class: examples classified rightly, and examples.
    loss_sum : float
        The sum of the cross-entropy over the examples.
    other_ways : dict[str, NDArray[int64]]
        Examples classified rightly by the model's other ways of inference, where it has any: a
        number a way, or one for each of several runs.
    value_sums : dict[str, float]
        Sums over the examples of metrics of the user's own, by name.
    confusion : NDArray[int64] or None
        Examples by class (rows) and predicted class (columns); None of more than 100 classes, and
        where a model predicts other classes than those.

    Examples
    --------
    >>> import numpy as np
    >>> from atoll.clients import Evaluation
    >>> first = Evaluation(correct=np.array([3, 1]), counts=np.array([4, 2]), loss_sum=2.0)
    >>> both = first + Evaluation(correct=np.array([0, 2]), counts=np.array([0, 2]), loss_sum=1.0)
    >>> both.examples, both.accuracy, both.loss, both.per_class_accuracy
    (8, 0.75, 0.375, [0.75, 0.75])
    """

    correct: NDArray[np.int64]
    counts: NDArray[np.int64]
    loss_sum: float
    other_ways: dict[str, NDArray[np.int64]] = field(default_factory=dict)
    value_sums: dict[str, float] = field(default_factory=dict)
    confusion: NDArray[np.int64] | None = None

    def __add__(self, other: Evaluation) -> Evaluation:
        return Evaluation(
            self.correct + other.correct,
            self.counts + other.counts,
            self.loss_sum + other.loss_sum,
            {name: right + other.other_ways[name] for name, right in self.other_ways.items()},
            {name: value + other.value_sums[name] for name, value in self.value_sums.items()},
            _both(self.confusion, other.confusion),
        )

    @property
    def examples(self) -> int:
        """The number of examples."""
        return int(self.counts.sum())

    @property
    def accuracy(self) -> float:
        """The share of examples classified rightly."""
        return float(self.correct.sum() / max(1, self.examples))

    @property
    def loss(self) -> float:
        """The mean cross-entropy."""
        return self.loss_sum / max(1, self.examples)

    @property
    def per_class_accuracy(self) -> list[float]:
        """The accuracy on each class; 0 for a class without examples."""
        shares = self.correct / np.maximum(1, self.counts)
        return [float(share) for share in shares]

    def own_metrics(self) -> dict[str, float]:
        """Return the means of metrics of the user's own."""
        return {name: total / max(1, self.examples) for name, total in self.value_sums.items()}

    def metrics_of_other_ways(self) -> Metrics:
        """Return ``NAME_accuracy`` of other ways of inference, a list where there are several."""
        shares = {name: right / max(1, self.examples) for name, right in self.other_ways.items()}
        return {f"{name}_accuracy": share.tolist() for name, share in shares.items()}


def _both(
    one: NDArray[np.int64] | None, other: NDArray[np.int64] | None
) -> NDArray[np.int64] | None:
    return None if one is None or other is None else one + other


def batch_of(dataset: ModelInputs) -> int:
    """Return how many of a data set's images are evaluated at once."""
    return max(1, min(BATCH, BATCH_VALUES // int(np.prod(dataset.image_shape))))


def evaluate(
    model: nn.Module,
    dataset: ModelInputs,
    split: Split,
    indices: NDArray[np.int64],
    device: torch.device | str = "cpu",
    metrics: Sequence[str] = (),
) -> Evaluation:
    """Evaluate ``model`` on the examples ``indices`` of ``split``.

    Parameters
    ----------
    model : nn.Module
        The model; it is left in evaluation mode.
    dataset : ImageDataset or ModelInputs
        Data set, or what else has the mean and deviation that normalise the images.
    split : Split
        The examples, of which ``indices`` are evaluated.
    indices : NDArray[int64]
        Shape (n,).
    device : torch.device or str
        Device of the model.
    metrics : Sequence[str]
        Metrics of the user's own, ``module:callable``.

    Returns
    -------
    Evaluation
        Summed over batches of 512 (fewer of large images), in order.

    Examples
    --------
    >>> import numpy as np
    >>> from atoll.clients import ModelSettings, build_model, evaluate, load_dataset
    >>> digits = load_dataset("digits")
    >>> model = build_model(ModelSettings(name="linear"), digits.image_shape, 10, seed=0)
    >>> result = evaluate(model, digits, digits.test, np.arange(100))
    >>> result.examples, 0.0 <= result.accuracy <= 1.0
    (100, True)
    """
    model.eval()
    done = []
    batch = batch_of(dataset)
    with torch.no_grad():
        for start in range(0, len(indices), batch):
            chosen = indices[start : start + batch]
            images = to_tensor(split.images[chosen], dataset.mean, dataset.std).to(device)
            inferences: Any = getattr(model, "inferences", None)
            if inferences is None:
                ways = {MAIN: model(images)}
            else:
                ways = inferences(images, int(chosen[0]))
            done.append(count(ways, split.labels[chosen], len(dataset.classes), metrics))
    nothing = np.zeros(len(dataset.classes), np.int64)
    empty = Evaluation(nothing, nothing, 0.0, value_sums={name_of(one): 0.0 for one in metrics})
    return reduce(add, done) if done else empty


def count(
    ways: Mapping[str, Tensor],
    labels: NDArray[np.int64],
    classes: int,
    metrics: Sequence[str] = (),
) -> Evaluation:
    """Return how many examples are classified rightly.

    Parameters
    ----------
    ways : Mapping[str, Tensor]
        Logits by way of inference, shape (n, outputs) or (runs, n, outputs); "mean" is the main
        one.
    labels : NDArray[int64]
        Shape (n,).
    classes : int
        How many classes there are.
    metrics : Sequence[str]
        Metrics of the user's own, of the main way's logits.
    """
    wanted, logits = torch.from_numpy(labels), ways[MAIN].cpu()
    predicted = predictions_of(logits).numpy()
    is_right = predicted == labels
    return Evaluation(
        correct=np.bincount(labels[is_right], minlength=classes),
        counts=np.bincount(labels, minlength=classes),
        loss_sum=float(losses_of(logits.double(), wanted).sum()),
        other_ways={
            name: np.asarray((predictions_of(other.cpu()) == wanted).sum(-1).numpy())
            for name, other in ways.items()
            if name != MAIN
        },
        value_sums={
            name_of(metric): float(values_of(metric, METRICS, logits, wanted).double().sum())
            for metric in metrics
        },
        confusion=confusion_of(labels, predicted, classes),
    )


def confusion_of(
    labels: NDArray[np.int64], predicted: NDArray[np.int64], classes: int
) -> NDArray[np.int64] | None:
    """Return examples by class and predicted class; None as in :class:`Evaluation`."""
    if classes > MOST_CONFUSED or (len(predicted) and int(predicted.max()) >= classes):
        return None
    pairs = np.bincount(labels * classes + predicted, minlength=classes * classes)
    return pairs.reshape(classes, classes)


def metrics_by_domain(sets: TestSets, evaluations: Sequence[Evaluation]) -> Metrics:
    """Return the server's metrics.

    Parameters
    ----------
    sets : TestSets
        What was evaluated.
    evaluations : Sequence[Evaluation]
        One a domain of ``sets``, in its order.

    Returns
    -------
    Metrics
        ``accuracy``, ``loss`` and ``per_class_accuracy`` over the examples of the main domains
        (those held out, where there are any); ``accuracy_DOMAIN`` and ``loss_DOMAIN`` for each
        domain; and, beside held-out domains, ``validation_accuracy`` and ``validation_loss``: the
        training domains' mean, each domain counting the same.
    """
    by_name = dict(zip(sets.names, evaluations, strict=True))
    total = reduce(add, [by_name[name] for name in sets.main])
    metrics: Metrics = {
        "accuracy": total.accuracy,
        "loss": total.loss,
        "per_class_accuracy": total.per_class_accuracy,
        **total.metrics_of_other_ways(),
        **total.own_metrics(),
    }
    if sets.validation:
        own = [by_name[name] for name in sets.validation]
        metrics["validation_accuracy"] = sum(e.accuracy for e in own) / len(own)
        metrics["validation_loss"] = sum(e.loss for e in own) / len(own)
    for name in filter(None, sets.names):
        metrics[f"accuracy_{name}"] = by_name[name].accuracy
        metrics[f"loss_{name}"] = by_name[name].loss
        metrics.update(
            {f"{own}_{name}": value for own, value in by_name[name].own_metrics().items()}
        )
    return metrics
