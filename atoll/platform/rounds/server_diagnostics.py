"""Distances of the held-out domains to the training domains, on the server's test data."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import ray
import torch
from flwr.app import ArrayRecord, RecordDict
from numpy.typing import NDArray
from torch import nn

from atoll.clients.apps.client_spec import ClientSpec
from atoll.clients.data.files.dataset import Dataset
from atoll.clients.data.partitioning.domains import TestSets
from atoll.clients.models.head import SplitModel
from atoll.clients.models.head_outputs import HeadOutputs
from atoll.clients.tasks.output_loss import CROSS_ENTROPY
from atoll.clients.training.evaluation import batch_of
from atoll.platform.grid.ray_grid import RayGrid
from atoll.platform.messages.packing import PackedRecords, pack
from atoll.platform.pool.mapping import map_over_workers
from atoll.platform.rounds.server_evaluation import loaded
from atoll.strategies.alignment.alignment_method import FIXED_SEED
from atoll.strategies.alignment.diagnostics import measure_diagnostics
from atoll.strategies.alignment.moments.domain_moments import Domains

# Test examples of a domain that are looked at: their features are held on the server.
EXAMPLES = 2048

Outputs = tuple[NDArray[np.float32], NDArray[np.float32]]


class ServerDiagnostics:
    """Measures each held-out domain against the mean of the training domains.

    Parameters
    ----------
    grid : RayGrid
        Its workers run the model.
    dataset : Dataset
        Its test split is used, the first 2,048 examples of each domain.
    spec : ClientSpec
        The federation's: its model, and where the workers' models are.
    sets : TestSets
        Which test examples are used, by domain; with held-out domains.
    every : int
        Rounds between measurements.
    """

    def __init__(
        self,
        grid: RayGrid,
        dataset: Dataset,
        spec: ClientSpec,
        sets: TestSets,
        every: int,
    ) -> None:
        self._grid = grid
        self._dataset = dataset
        self._spec = spec
        self._every = every
        self._held_out = sets.main
        self._names = (*sets.main, *sets.validation)
        indices = dict(zip(sets.names, sets.indices, strict=True))
        self._indices = [indices[name][:EXAMPLES] for name in self._names]
        self._model = replace(spec, device="cpu").build_model(dataset).eval()
        self._arrays = spec.arrays_of(self._model)

    def __call__(self, server_round: int, arrays: ArrayRecord) -> Mapping[str, float]:
        """Return the figures of a round, if it is due; see :func:`measure_diagnostics`."""
        if server_round == 0 or server_round % self._every:
            return {}
        content = ray.put(pack(RecordDict({"arrays": arrays})))
        calls = [(content, self._spec, indices) for indices in self._indices]
        done: list[Outputs] = map_over_workers(self._grid.pool, outputs_of, calls)
        self._arrays.load(arrays)
        head = copy.deepcopy(SplitModel(self._model).head).double()
        outputs = {
            name: self._head_outputs(head, own, indices)
            for name, own, indices in zip(self._names, done, self._indices, strict=True)
        }
        return measure_diagnostics(Domains.of_outputs(outputs), FIXED_SEED, self._held_out)

    def _head_outputs(
        self, head: nn.Module, outputs: Outputs, indices: NDArray[np.int64]
    ) -> HeadOutputs:
        features, logits = (torch.from_numpy(values.astype(np.float64)) for values in outputs)
        labels = torch.from_numpy(self._dataset.test.labels[indices])
        loss = self._dataset.task.output_loss or CROSS_ENTROPY
        return HeadOutputs(features, logits, labels, torch.arange(len(labels)), head, (), loss)


def outputs_of(content: PackedRecords, spec: ClientSpec, indices: NDArray[np.int64]) -> Outputs:
    """Return the features and logits of test examples, in a worker."""
    dataset, network = loaded(content, spec)
    network.eval()
    split, parts, batch = SplitModel(network), [], batch_of(dataset.inputs)
    with torch.no_grad():
        for start in range(0, len(indices), batch):
            chosen = indices[start : start + batch]
            images = dataset.inputs.to_tensor(dataset.test.inputs[chosen]).to(spec.device)
            labels = torch.from_numpy(dataset.test.labels[chosen])
            found = split(images, labels, torch.arange(len(labels)))
            parts.append((found.features.cpu().numpy(), found.logits.cpu().numpy()))
    features, logits = zip(*parts, strict=True)
    return np.concatenate(features), np.concatenate(logits)
