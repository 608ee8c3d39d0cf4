"""Training of the server's own on root data: a small clean set (FLTrust, Cao et al., 2021)."""

from __future__ import annotations

from dataclasses import replace
from functools import cached_property

import numpy as np
import torch
from flwr.app import ArrayRecord
from numpy.typing import NDArray

from atoll.clients.apps.client_resources import ClientResources
from atoll.clients.apps.client_spec import ClientSpec
from atoll.clients.data.client_inputs import client_inputs
from atoll.clients.training.learning_rates import learning_rate_at
from atoll.clients.training.local_training import train
from atoll.randomness import derive_seed


class RootTraining:
    """Local training of the server, on examples of the training split, on the CPU.

    The examples are drawn from the seed; clients may hold them too, as in the paper's first case.

    Parameters
    ----------
    spec : ClientSpec
        The federation's.
    examples : int
        How many there are, at most.
    """

    def __init__(self, spec: ClientSpec, examples: int) -> None:
        self._spec = replace(spec, device="cpu")
        self._examples = examples
        self._resources = ClientResources(self._spec)

    @cached_property
    def _chosen(self) -> NDArray[np.int64]:
        generator = np.random.default_rng(derive_seed(self._spec.seed, "root data"))
        count = len(self._resources.dataset.train)
        drawn = generator.choice(count, min(count, self._examples), replace=False)
        return np.sort(drawn).astype(np.int64)

    def __call__(self, server_round: int, arrays: ArrayRecord) -> ArrayRecord:
        """Return the model that a client with the root data would send."""
        resources, spec = self._resources, self._spec
        seed = derive_seed(spec.seed, server_round, "root training")
        resources.arrays.load(arrays)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            train(
                resources.model,
                client_inputs(resources.dataset, self._chosen, seed, "cpu"),
                torch.from_numpy(resources.dataset.train.labels[self._chosen]),
                spec.client,
                learning_rate=learning_rate_at(spec.client, server_round, spec.num_rounds),
                generator=torch.Generator().manual_seed(seed),
                task=resources.dataset.task,
            )
        return resources.arrays.read()
