"""Multi-label classification: any number of labels for each example."""

from __future__ import annotations

from typing import Annotated, Literal

import numpy as np
import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from atoll.clients.tasks.output_loss import OutputLoss
from atoll.clients.tasks.ranking import area_under_roc, average_precision
from atoll.clients.tasks.task import Measured, Metrics, Task


class _LabelsLoss(OutputLoss):
    """Mean binary cross-entropy over an example's labels."""

    def losses(self, outputs: Tensor, targets: Tensor) -> Tensor:
        wanted = targets.to(outputs)
        return F.binary_cross_entropy_with_logits(outputs, wanted, reduction="none").mean(-1)

    def residuals(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return (outputs.sigmoid() - targets.to(outputs)) / outputs.shape[-1]

    def curvatures(self, outputs: Tensor, targets: Tensor) -> Tensor:
        p = outputs.sigmoid()
        return p * (1 - p) / outputs.shape[-1]


_LABELS = _LabelsLoss()


class MultiLabel(Task):
    """Task of a yes or no for each of several labels, by binary cross-entropy.

    Targets are float32, shape (n, labels), of 0 and 1. An example's loss is the mean over labels.

    Attributes
    ----------
    labels : tuple[str, ...]
        Names of the labels.

    Examples
    --------
    >>> import torch
    >>> from atoll.clients import MultiLabel
    >>> task = MultiLabel(labels=("cat", "dog"))
    >>> outputs, targets = torch.tensor([[3.0, -3.0], [2.0, 2.0]]), torch.tensor([[1.0, 0.0]] * 2)
    >>> metrics = task.summarise(task.measure(outputs, targets))
    >>> metrics["accuracy"], metrics["exact_match"]
    (0.75, 0.5)
    """

    kind: Literal["multi-label"] = "multi-label"
    labels: Annotated[tuple[str, ...], Field(strict=False, min_length=1)]

    @property
    def outputs(self) -> int:
        """The number of labels."""
        return len(self.labels)

    @property
    def metrics(self) -> tuple[str, ...]:
        """Mean AUROC over labels, mean AUPRC, micro F1, accuracy, and exact matches."""
        return ("auroc", "auprc", "f1", "accuracy", "exact_match", "loss")

    @property
    def means(self) -> tuple[str, ...]:
        """All that are counts: no AUROC, no F1."""
        return ("loss", "accuracy", "exact_match")

    @property
    def output_loss(self) -> OutputLoss:
        """The mean of the labels' cross-entropies."""
        return _LABELS

    def losses(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return each example's mean binary cross-entropy, in nats."""
        return _LABELS.losses(outputs, targets)

    def predictions(self, outputs: Tensor) -> Tensor:
        """Return 1 for each label that is more probable than not: int64, shape (n, labels)."""
        return (outputs > 0).long()

    def blank_targets(self, count: int) -> Tensor:
        """Return no label for any: float32, shape (count, labels)."""
        return torch.zeros(count, len(self.labels))

    def measure(self, outputs: Tensor, targets: Tensor) -> Measured:
        """Return counts of right labels, the loss, and the scores."""
        found = self.predictions(outputs)
        wanted = targets.long()
        sums = {
            "examples": np.array(len(targets)),
            "loss": np.array(float(self.losses(outputs.double(), targets.double()).sum())),
            "right": np.array(int((found == wanted).sum())),
            "exact": np.array(int((found == wanted).all(-1).sum())),
            "both": np.array(int((found * wanted).sum())),
            "found": np.array(int(found.sum())),
            "wanted": np.array(int(wanted.sum())),
        }
        samples = {"score": outputs.double().numpy(), "label": wanted.numpy()}
        return Measured(sums, samples)

    def summarise(self, measured: Measured) -> Metrics:
        """Return the metrics; AUROC and AUPRC are means over the labels that have both kinds."""
        sums = {name: float(value) for name, value in measured.sums.items()}
        examples = max(1.0, sums["examples"])
        scores, labels = measured.samples["score"], measured.samples["label"] == 1
        told = [k for k in range(len(self.labels)) if 0 < labels[:, k].sum() < len(labels)]
        roc = [area_under_roc(scores[:, k], labels[:, k]) for k in told]
        precision = [average_precision(scores[:, k], labels[:, k]) for k in told]
        return {
            "auroc": float(np.mean(roc)) if told else 0.5,
            "auprc": float(np.mean(precision)) if told else 0.0,
            "f1": 2 * sums["both"] / max(1.0, sums["found"] + sums["wanted"]),
            "accuracy": sums["right"] / (examples * len(self.labels)),
            "exact_match": sums["exact"] / examples,
            "loss": sums["loss"] / examples,
        }
