"""Success of poisoned clients, measured on the server's test data by the run's workers."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import ray
import torch
from flwr.app import ArrayRecord, RecordDict
from numpy.typing import NDArray

from atoll.attacks.poisoning.poison import Poison
from atoll.clients.apps.client_spec import ClientSpec
from atoll.clients.data.files.dataset import Dataset
from atoll.clients.data.partitioning.domains import TestSets
from atoll.clients.training.evaluation import batch_of
from atoll.platform.callbacks.metric_names import ATTACK_SUCCESS
from atoll.platform.grid.ray_grid import RayGrid
from atoll.platform.messages.packing import PackedRecords, pack
from atoll.platform.pool.mapping import map_over_workers
from atoll.platform.rounds.server_evaluation import cut, loaded


class AttackSuccess:
    """Measures which share of the test examples that an attack aims at are classed as it wants.

    Parameters
    ----------
    grid : RayGrid
        Its workers run the model.
    dataset : Dataset
        Its test split is used: of the main domains.
    spec : ClientSpec
        The federation's: its model, and where the workers' models are.
    sets : TestSets
        Which test examples are used, by domain.
    poison : Poison
        The attack; it has a goal.
    """

    def __init__(
        self, grid: RayGrid, dataset: Dataset, spec: ClientSpec, sets: TestSets, poison: Poison
    ) -> None:
        self._grid, self._spec, self._poison = grid, spec, poison
        of_domain = dict(zip(sets.names, sets.indices, strict=True))
        tested = np.concatenate([of_domain[name] for name in sets.main])
        self._aims = poison.aims(dataset, tested)

    def __call__(self, server_round: int, arrays: ArrayRecord) -> Mapping[str, float]:
        """Return the success in a round; nothing where there is nothing to aim at."""
        if not len(self._aims):
            return {}
        content = ray.put(pack(RecordDict({"arrays": arrays})))
        calls = [(content, self._spec, self._poison, part) for part in cut(self._aims)]
        hits: list[int] = map_over_workers(self._grid.pool, hits_of, calls)
        return {ATTACK_SUCCESS: sum(hits) / len(self._aims)}


def hits_of(
    content: PackedRecords, spec: ClientSpec, poison: Poison, chosen: NDArray[np.int64]
) -> int:
    """Return how many test examples are classed as an attack wants, in a worker."""
    dataset, network = loaded(content, spec)
    network.eval()
    hits, batch = 0, batch_of(dataset.inputs)
    with torch.no_grad():
        for start in range(0, len(chosen), batch):
            inputs, wanted = poison.goal(dataset, chosen[start : start + batch])
            outputs = network(inputs.to(spec.device)).cpu()
            hits += int((dataset.task.predictions(outputs) == wanted).sum())
    return hits
