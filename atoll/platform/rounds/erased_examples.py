"""Metrics on the examples of clients that have left, measured by the run's workers."""

from __future__ import annotations

from collections.abc import Mapping
from functools import reduce
from operator import add

import numpy as np
import ray
from flwr.app import ArrayRecord, RecordDict
from numpy.typing import NDArray

from atoll.clients.apps.client_spec import ClientSpec
from atoll.clients.training.evaluation import Evaluation, evaluate
from atoll.platform.callbacks.metric_names import ERASED
from atoll.platform.grid.ray_grid import RayGrid
from atoll.platform.messages.packing import PackedRecords, pack
from atoll.platform.pool.mapping import map_over_workers
from atoll.platform.rounds.server_evaluation import cut, loaded


class ErasedExamples:
    """Measures the task's metrics on the training examples of clients that have left.

    A model that was trained without them is on these as on any others. No server of a real
    federation has them: the figures are for the person who evaluates a method.

    Parameters
    ----------
    grid : RayGrid
        Its workers run the model.
    spec : ClientSpec
        The federation's: its model, and where the workers' models are.
    examples : NDArray[int64]
        Places in the training split, shape (n,), n > 0.
    """

    def __init__(self, grid: RayGrid, spec: ClientSpec, examples: NDArray[np.int64]) -> None:
        self._grid, self._spec = grid, spec
        self._parts = cut(examples)

    def __call__(self, server_round: int, arrays: ArrayRecord) -> Mapping[str, float]:
        """Return the metrics in a round, their names with the prefix ``erased_``."""
        content = ray.put(pack(RecordDict({"arrays": arrays})))
        calls = [(content, self._spec, part) for part in self._parts]
        done: list[Evaluation] = map_over_workers(self._grid.pool, evaluate_training_part, calls)
        metrics = reduce(add, done).task_metrics()
        names = done[0].task.metrics
        return {f"{ERASED}_{name}": _number(metrics[name]) for name in names}


def evaluate_training_part(
    content: PackedRecords, spec: ClientSpec, chosen: NDArray[np.int64]
) -> Evaluation:
    """Evaluate some training examples in a worker."""
    dataset, network = loaded(content, spec)
    return evaluate(network, dataset, dataset.train, chosen, spec.device)


def _number(value: object) -> float:
    assert isinstance(value, int | float)
    return float(value)
