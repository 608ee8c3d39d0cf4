"""Evaluation of the global model on the server's test data, shared out among the workers."""

from __future__ import annotations

from functools import lru_cache, reduce
from operator import add
from pathlib import Path
from typing import Any, cast

import numpy as np
import ray
from flwr.app import ArrayRecord, MetricRecord, RecordDict

from atoll.clients.data.store import ImageDataset
from atoll.clients.evaluation import Evaluation, evaluate
from atoll.clients.model_arrays import ModelArrays
from atoll.clients.models.build import build_model
from atoll.clients.settings import ModelSettings
from atoll.platform.content import PackedRecords, pack, unpack
from atoll.platform.grid import RayGrid
from atoll.platform.mapping import map_over_workers

# Parts are the same for any number of workers, so their sum has the same bits.
PART = 1024


class ServerEvaluation:
    """The ``evaluate_fn`` of a run: accuracy, loss and accuracy per class.

    Parameters
    ----------
    grid : RayGrid
        Its workers evaluate.
    dataset : ImageDataset
        Its test split is used.
    model : ModelSettings
        ``[model]``.
    examples : int or None
        Use only the first so many test examples.
    device : str
        Where the workers' models are.
    """

    def __init__(
        self,
        grid: RayGrid,
        dataset: ImageDataset,
        model: ModelSettings,
        examples: int | None,
        device: str,
    ) -> None:
        self._grid = grid
        self._place = (dataset.directory, model, device)
        count = min(examples or len(dataset.test), len(dataset.test))
        self._parts = [(start, min(start + PART, count)) for start in range(0, count, PART)]

    def __call__(self, server_round: int, arrays: ArrayRecord) -> MetricRecord:
        """Evaluate the model of a round."""
        content = ray.put(pack(RecordDict({"arrays": arrays})))
        calls = [(content, *self._place, *part) for part in self._parts]
        parts: list[Evaluation] = map_over_workers(self._grid.pool, evaluate_part, calls)
        total = reduce(add, parts)
        return MetricRecord(
            {
                "accuracy": total.accuracy,
                "loss": total.loss,
                "per_class_accuracy": total.per_class_accuracy,
            }
        )


@lru_cache(maxsize=4)
def _opened(directory: Path, model: str, device: str) -> tuple[ImageDataset, Any, ModelArrays]:
    dataset = ImageDataset(directory)
    settings = ModelSettings.model_validate_json(model)
    network = build_model(settings, dataset.image_shape, len(dataset.classes), 0).to(device)
    return dataset, network, ModelArrays(network)


def evaluate_part(
    content: PackedRecords,
    directory: Path,
    model: ModelSettings,
    device: str,
    start: int,
    stop: int,
) -> Evaluation:
    """Evaluate the test examples ``start`` to ``stop`` in a worker."""
    dataset, network, arrays = _opened(directory, model.model_dump_json(), device)
    arrays.load(cast(ArrayRecord, unpack(content)["arrays"]))
    return evaluate(network, dataset, dataset.test, np.arange(start, stop), device)
