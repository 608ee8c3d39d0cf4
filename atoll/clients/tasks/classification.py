"""Classification: one label for each example; with two classes also its ranking metrics."""

from __future__ import annotations

from typing import Annotated, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor

from atoll.clients.tasks.losses import losses_of, mean_loss, predictions_of, probabilities_of
from atoll.clients.tasks.output_loss import CROSS_ENTROPY, OutputLoss
from atoll.clients.tasks.ranking import area_under_roc, average_precision
from atoll.clients.tasks.task import Measured, Metrics, Task

# Of more classes no confusion matrix is kept.
MOST_CONFUSED = 100
# Equal bins of the confidence, as in Guo et al. (2017), "On Calibration of Modern Neural Networks".
BINS = 15


class Classification(Task):
    """Task of one label an example, by cross-entropy.

    A model may give one logit for two classes: that of class 1 (a sigmoid head).

    Attributes
    ----------
    classes : tuple[str, ...]
        Names of the labels.

    Examples
    --------
    >>> import torch
    >>> from atoll.clients import Classification
    >>> task = Classification(classes=("no", "yes"))
    >>> logits, labels = torch.tensor([[2.0, 0.0], [0.0, 1.0], [1.0, 0.0]]), torch.tensor([0, 1, 1])
    >>> metrics = task.summarise(task.measure(logits, labels))
    >>> round(metrics["accuracy"], 4), metrics["auroc"], metrics["f1"]
    (0.6667, 1.0, 0.6666666666666666)
    """

    kind: Literal["classification"] = "classification"
    classes: Annotated[tuple[str, ...], Field(strict=False)]

    @property
    def outputs(self) -> int:
        """The number of classes."""
        return len(self.classes)

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names of the labels."""
        return self.classes

    @property
    def metrics(self) -> tuple[str, ...]:
        """Accuracy, loss and calibration; of two classes also AUROC, AUPRC and F1 of class 1."""
        of_two = ("auroc", "auprc", "f1") if len(self.classes) == 2 else ()
        return ("accuracy", "loss", "calibration_error", *of_two)

    @property
    def means(self) -> tuple[str, ...]:
        """Loss and accuracy."""
        return ("loss", "accuracy")

    @property
    def output_loss(self) -> OutputLoss:
        """The cross-entropy."""
        return CROSS_ENTROPY

    def losses(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return each example's cross-entropy, in nats."""
        return losses_of(outputs, targets)

    def mean_loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return the mean cross-entropy."""
        return mean_loss(outputs, targets)

    def predictions(self, outputs: Tensor) -> Tensor:
        """Return the most probable class of each example: int64, shape (n,)."""
        return predictions_of(outputs)

    def blank_targets(self, count: int) -> Tensor:
        """Return labels 0: int64, shape (count,)."""
        return torch.zeros(count, dtype=torch.int64)

    def check_outputs(self, outputs: Tensor) -> None:
        """Refuse other outputs than a logit a class, or one for two."""
        if len(self.classes) != 2 or outputs.shape != (len(outputs), 1):
            super().check_outputs(outputs)

    def measure(self, outputs: Tensor, targets: Tensor) -> Measured:
        """Return counts by class, the loss, bins of the confidence, and scores of two classes."""
        classes, labels = len(self.classes), targets.numpy()
        predicted = predictions_of(outputs).numpy()
        is_right = predicted == labels
        probabilities = probabilities_of(outputs.double())
        sums: dict[str, NDArray[np.int64] | NDArray[np.float64]] = {
            "correct": np.bincount(labels[is_right], minlength=classes),
            "counts": np.bincount(labels, minlength=classes),
            "loss": np.array(float(losses_of(outputs.double(), targets).sum())),
            "confidence": _by_confidence(probabilities, is_right),
        }
        # A model may give more logits than there are classes.
        if classes <= MOST_CONFUSED and (not len(predicted) or predicted.max() < classes):
            pairs = np.bincount(labels * classes + predicted, minlength=classes * classes)
            sums["confusion"] = pairs.reshape(classes, classes)
        samples = {}
        if classes == 2:
            samples["score"] = probabilities[:, -1].numpy()
            samples["label"] = labels
        return Measured(sums, samples)

    def summarise(self, measured: Measured) -> Metrics:
        """Return accuracy, loss, accuracy by class and calibration, and of two classes the rest."""
        sums = measured.sums
        correct, counts = sums["correct"], sums["counts"]
        examples = max(1, int(counts.sum()))
        shares = correct / np.maximum(1, counts)
        metrics: Metrics = {
            "accuracy": float(correct.sum() / examples),
            "loss": float(sums["loss"]) / examples,
            "per_class_accuracy": [float(share) for share in shares],
            "calibration_error": _calibration_error(sums["confidence"], examples),
        }
        if len(self.classes) == 2:
            metrics.update(_of_two_classes(measured))
        return metrics


def _by_confidence(probabilities: Tensor, is_right: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Return the examples, the sum of confidences and the right ones in each bin: (3, bins)."""
    if probabilities.shape[-1] == 1:
        probabilities = torch.cat([1 - probabilities, probabilities], -1)
    confidence = probabilities.amax(-1).numpy() if len(probabilities) else np.empty(0)
    # A model that has diverged says nothing of any class.
    confidence = np.nan_to_num(confidence)
    place = np.minimum((confidence * BINS).astype(np.int64), BINS - 1)
    columns = (None, confidence, is_right.astype(np.float64))
    return np.stack([np.bincount(place, weights, BINS).astype(np.float64) for weights in columns])


def _calibration_error(bins: NDArray[np.float64], examples: int) -> float:
    """Return the expected calibration error: the bins' |accuracy - confidence|, by their share."""
    _, confidence, right = bins
    return float(np.abs(right - confidence).sum() / examples)


def _of_two_classes(measured: Measured) -> Metrics:
    scores, labels = measured.samples["score"], measured.samples["label"]
    predicted = scores > 0.5
    both = int((predicted & (labels == 1)).sum())
    return {
        "auroc": area_under_roc(scores, labels == 1),
        "auprc": average_precision(scores, labels == 1),
        "f1": 2 * both / max(1, int(predicted.sum()) + int((labels == 1).sum())),
    }


def classes_of(count: int) -> Classification:
    """Return the classification into so many classes, named by their numbers."""
    return Classification(classes=tuple(map(str, range(count))))
