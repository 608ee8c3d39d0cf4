"""Evaluation of the global model on the server's test data, shared out among the workers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache, reduce
from operator import add
from typing import cast

import numpy as np
import ray
from flwr.app import ArrayRecord, MetricRecord, RecordDict
from numpy.typing import NDArray
from torch import nn

from atoll.clients.apps.client_spec import ClientSpec
from atoll.clients.arrays.model_arrays import ModelArrays
from atoll.clients.data.files.dataset import Dataset
from atoll.clients.data.partitioning.domains import TestSets
from atoll.clients.training.evaluation import Evaluation, evaluate, metrics_by_domain
from atoll.platform.grid.ray_grid import RayGrid
from atoll.platform.messages.packing import PackedRecords, pack, unpack
from atoll.platform.pool.mapping import map_over_workers

# Parts are the same for any number of workers, so their sum has the same bits.
PART = 1024

Diagnostics = Callable[[int, ArrayRecord], Mapping[str, float]]
# Told of a round's examples by class and predicted class.
OnConfusion = Callable[[int, NDArray[np.int64]], None]


class ServerEvaluation:
    """The ``evaluate_fn`` of a run: accuracy, loss and accuracy per class, and by domain.

    Parameters
    ----------
    grid : RayGrid
        Its workers evaluate.
    dataset : Dataset
        Its test split is used.
    spec : ClientSpec
        The federation's: its model, and where the workers' models are.
    sets : TestSets
        Which test examples are used, by domain.
    diagnostics : Sequence[Callable]
        Each returns more figures of a round.
    metrics : Sequence[str]
        Metrics of the user's own, ``module:callable``.
    on_confusion : callable, optional
        Told of each round's confusion matrix, over the examples that ``accuracy`` is of.
    """

    def __init__(
        self,
        grid: RayGrid,
        dataset: Dataset,
        spec: ClientSpec,
        sets: TestSets,
        diagnostics: Sequence[Diagnostics] = (),
        metrics: Sequence[str] = (),
        on_confusion: OnConfusion | None = None,
    ) -> None:
        self._grid = grid
        self._on_confusion = on_confusion
        self._diagnostics = diagnostics
        self._spec = spec
        self._metrics = tuple(metrics)
        self._sets = sets
        self._parts = [cut(indices) for indices in sets.indices]

    def __call__(self, server_round: int, arrays: ArrayRecord) -> MetricRecord:
        """Evaluate the model of a round."""
        content = ray.put(pack(RecordDict({"arrays": arrays})))
        calls = [
            (content, self._spec, part, self._metrics) for parts in self._parts for part in parts
        ]
        done: list[Evaluation] = map_over_workers(self._grid.pool, evaluate_part, calls)
        ends = np.cumsum([len(parts) for parts in self._parts]).tolist()
        evaluations = [
            reduce(add, done[end - len(parts) : end])
            for end, parts in zip(ends, self._parts, strict=True)
        ]
        metrics = metrics_by_domain(self._sets, evaluations)
        self._tell_of_confusion(server_round, evaluations)
        for diagnostics in self._diagnostics:
            metrics.update(diagnostics(server_round, arrays))
        return MetricRecord(metrics)

    def _tell_of_confusion(self, server_round: int, evaluations: Sequence[Evaluation]) -> None:
        by_name = dict(zip(self._sets.names, evaluations, strict=True))
        confusion = reduce(add, [by_name[name] for name in self._sets.main]).confusion
        if self._on_confusion is not None and confusion is not None:
            self._on_confusion(server_round, confusion)


def cut(indices: NDArray[np.int64]) -> list[NDArray[np.int64]]:
    """Return examples in parts that workers evaluate, the same for any number of workers."""
    return [indices[start : start + PART] for start in range(0, len(indices), PART)]


@lru_cache(maxsize=4)
def _opened(spec: ClientSpec) -> tuple[Dataset, nn.Module, ModelArrays]:
    """Return a worker's data set and model, and the model's arrays; made once a process."""
    dataset = Dataset(spec.dataset)
    network = spec.build_model(dataset)
    return dataset, network, spec.arrays_of(network)


def loaded(content: PackedRecords, spec: ClientSpec) -> tuple[Dataset, nn.Module]:
    """Return a worker's data set, and its model with the parameters of a message."""
    dataset, network, arrays = _opened(spec)
    arrays.load(cast(ArrayRecord, unpack(content)["arrays"]))
    return dataset, network


def evaluate_part(
    content: PackedRecords,
    spec: ClientSpec,
    indices: NDArray[np.int64],
    metrics: Sequence[str] = (),
) -> Evaluation:
    """Evaluate some test examples in a worker."""
    dataset, network = loaded(content, spec)
    return evaluate(network, dataset, dataset.test, indices, spec.device, metrics)
