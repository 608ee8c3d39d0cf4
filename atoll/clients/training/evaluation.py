"""Evaluation as measurements that add up, so that batches can be evaluated anywhere and summed."""

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

from atoll.clients.data.files.dataset import Split
from atoll.clients.data.inputs.base import Inputs
from atoll.clients.data.partitioning.domains import TestSets
from atoll.clients.tasks.task import Measured, Metrics, Task
from atoll.clients.tasks.user_functions import METRICS, name_of, values_of

# Examples at once, and fewer of inputs with more numbers than those of 64x64 in colour: a deep
# network's activations of 512 photographs would not fit into memory.
BATCH, BATCH_VALUES = 512, 512 * 3 * 64 * 64
# The way of inference that the task's metrics are of.
MAIN = "mean"


class ModelData(Protocol):
    """What a model is given, and what it predicts; a data set has these attributes."""

    @property
    def inputs(self) -> Inputs:
        """What an example is, and how it becomes a tensor."""

    @property
    def task(self) -> Task:
        """What is predicted, and the metrics."""


@dataclass(frozen=True)
class Evaluation:
    """Evaluation of a model on some examples; evaluations add up.

    Attributes
    ----------
    task : Task
        What is predicted.
    examples : int
        The number of examples.
    measured : Measured
        The task's sums over them.
    right_otherwise : dict[str, NDArray[int64]]
        Examples classified rightly by the model's other ways of inference, where it has any: a
        number a way, or one for each of several runs.
    value_sums : dict[str, float]
        Sums over the examples of metrics of the user's own, by name.

    Examples
    --------
    >>> import torch
    >>> from atoll.clients import Classification, measure
    >>> task = Classification(classes=("cat", "dog", "owl"))
    >>> first = measure(task, {"mean": torch.eye(3)}, torch.tensor([0, 1, 1]))
    >>> both = first + measure(task, {"mean": torch.eye(3)[:1]}, torch.tensor([0]))
    >>> both.examples, both["accuracy"], both["per_class_accuracy"]
    (4, 0.75, [1.0, 0.5, 0.0])
    """

    task: Task
    examples: int
    measured: Measured
    right_otherwise: dict[str, NDArray[np.int64]] = field(default_factory=dict)
    value_sums: dict[str, float] = field(default_factory=dict)

    def __add__(self, other: Evaluation) -> Evaluation:
        return Evaluation(
            self.task,
            self.examples + other.examples,
            self.measured + other.measured,
            {n: right + other.right_otherwise[n] for n, right in self.right_otherwise.items()},
            {name: value + other.value_sums[name] for name, value in self.value_sums.items()},
        )

    def __getitem__(self, metric: str) -> Any:
        """Return one of the metrics."""
        return self.metrics()[metric]

    @property
    def confusion(self) -> NDArray[np.int64] | None:
        """Examples by class (rows) and predicted class (columns).

        None where no class is predicted, of more than 100 classes, and where a model predicts
        other classes than there are.
        """
        return self.measured.sums.get("confusion")

    def task_metrics(self) -> Metrics:
        """Return the task's metrics, the main one first."""
        found = self.task.summarise(self.measured)
        return {name: found[name] for name in self.task.metrics} | found

    def own_metrics(self) -> dict[str, float]:
        """Return the means of metrics of the user's own."""
        return {name: total / max(1, self.examples) for name, total in self.value_sums.items()}

    def metrics(self) -> Metrics:
        """Return the task's metrics, ``NAME_accuracy`` of other ways of inference, and one's own.

        The accuracy is a list where a way of inference ran several times.
        """
        examples = max(1, self.examples)
        others = {
            f"{name}_accuracy": (right / examples).tolist()
            for name, right in self.right_otherwise.items()
        }
        return {**self.task_metrics(), **others, **self.own_metrics()}


def batch_of(inputs: Inputs) -> int:
    """Return how many examples are evaluated at once."""
    return max(1, min(BATCH, BATCH_VALUES // inputs.numbers(1)))


def evaluate(
    model: nn.Module,
    dataset: ModelData,
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
    dataset : Dataset or ModelData
        Data set, or what else has its inputs and its task.
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
        Summed over batches of 512 (fewer of large inputs), in order.

    Examples
    --------
    >>> import numpy as np
    >>> from atoll.clients import ModelSettings, build_model, evaluate, load_dataset
    >>> digits = load_dataset("digits")
    >>> model = build_model(ModelSettings(name="linear"), digits.inputs, digits.task, seed=0)
    >>> result = evaluate(model, digits, digits.test, np.arange(100))
    >>> result.examples, 0.0 <= result["accuracy"] <= 1.0
    (100, True)
    """
    model.eval()
    done = []
    task, batch = dataset.task, batch_of(dataset.inputs)
    if not len(indices):
        nothing = {MAIN: torch.zeros(0, *task.output_shape)}
        return measure(task, nothing, task.blank_targets(0), metrics)
    with torch.no_grad():
        for start in range(0, len(indices), batch):
            chosen = indices[start : start + batch]
            inputs = dataset.inputs.to_tensor(split.inputs[chosen]).to(device)
            inferences: Any = getattr(model, "inferences", None)
            if inferences is None:
                ways = {MAIN: model(inputs)}
            else:
                ways = inferences(inputs, int(chosen[0]))
            done.append(measure(task, ways, torch.from_numpy(split.labels[chosen]), metrics))
    return reduce(add, done)


def measure(
    task: Task, ways: Mapping[str, Tensor], targets: Tensor, metrics: Sequence[str] = ()
) -> Evaluation:
    """Return the evaluation of a model's outputs.

    Parameters
    ----------
    task : Task
        What is predicted.
    ways : Mapping[str, Tensor]
        Outputs by way of inference, shape (n, ..., outputs) or (runs, n, outputs); "mean" is the
        main one. Others are of classifications.
    targets : Tensor
        What is right, shape (n, ...).
    metrics : Sequence[str]
        Metrics of the user's own, of the main way's outputs.

    Examples
    --------
    >>> import torch
    >>> from atoll.clients import Regression, measure
    >>> task = Regression()
    >>> measure(task, {"mean": torch.tensor([[1.0], [2.0]])}, torch.tensor([1.0, 0.0])).metrics()
    {'rmse': 1.4142135623730951, 'mae': 1.0, 'r2': -7.0, 'loss': 1.0}
    """
    outputs = ways[MAIN].cpu()
    return Evaluation(
        task,
        len(targets),
        task.measure(outputs, targets),
        right_otherwise={
            name: np.asarray((task.predictions(other.cpu()) == targets).sum(-1).numpy())
            for name, other in ways.items()
            if name != MAIN
        },
        value_sums={
            name_of(metric): float(values_of(metric, METRICS, outputs, targets).double().sum())
            for metric in metrics
        },
    )


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
        The task's metrics over the examples of the main domains (those held out, where there are
        any); ``METRIC_DOMAIN`` of each metric and domain; and, beside held-out domains,
        ``validation_METRIC``: the training domains' mean, each domain counting the same. Metrics
        that are lists are of the main domains only.
    """
    by_name = dict(zip(sets.names, evaluations, strict=True))
    metrics = reduce(add, [by_name[name] for name in sets.main]).metrics()
    of_domain = {name: one.task_metrics() for name, one in by_name.items()}
    for metric in evaluations[0].task.metrics if sets.validation else ():
        own = [_number(of_domain[name][metric]) for name in sets.validation]
        metrics[f"validation_{metric}"] = sum(own) / len(own)
    for name in filter(None, sets.names):
        for metric in by_name[name].task.metrics:
            metrics[f"{metric}_{name}"] = of_domain[name][metric]
        metrics.update(
            {f"{own}_{name}": value for own, value in by_name[name].own_metrics().items()}
        )
    return metrics


def _number(value: Any) -> float:
    return float(value)
