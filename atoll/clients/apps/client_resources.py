"""Resources of a process's clients: the mapped data set, its partition, and one model.

The data set, the partition and the model are made once a process and reused for every message.
"""

from __future__ import annotations

from functools import cached_property
from typing import Any

import numpy as np
import torch
from flwr.app import ConfigRecord
from numpy.typing import NDArray
from torch import Tensor, nn

from atoll.clients.apps.client_spec import ClientSpec
from atoll.clients.apps.training_messages import round_of
from atoll.clients.arrays.model_arrays import ModelArrays
from atoll.clients.data.client_inputs import ClientInputs, StoredInputs, client_inputs
from atoll.clients.data.files.dataset import Dataset
from atoll.clients.data.partitioning.partition import Partition
from atoll.clients.training.evaluation import evaluate
from atoll.clients.training.learning_rates import learning_rate_at
from atoll.randomness import derive_seed


class ClientResources:
    """Data and model that the clients of a process share.

    Parameters
    ----------
    spec : ClientSpec
        The federation's.
    """

    def __init__(self, spec: ClientSpec) -> None:
        self.spec = spec

    @cached_property
    def dataset(self) -> Dataset:
        """The mapped data set."""
        return Dataset(self.spec.dataset)

    @cached_property
    def partition(self) -> Partition:
        """The examples of each client."""
        return Partition(self.spec.partition)

    @cached_property
    def model(self) -> nn.Module:
        """Model of the process, on the clients' device."""
        return self.spec.build_model(self.dataset)

    @cached_property
    def arrays(self) -> ModelArrays:
        """The model's tensors that travel, as Flower arrays."""
        return self.spec.arrays_of(self.model)

    @property
    def count(self) -> int:
        """The number of clients in the federation."""
        return len(self.partition)

    def training_part(self, partition: int) -> NDArray[np.int64]:
        """Return which examples of the training split a client trains on."""
        return self._split(partition)[0]

    def _split(self, partition: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        return self.partition.split(partition, self.spec.client_test_fraction, self.spec.seed)

    def round_part(
        self, partition: int, config: ConfigRecord, limit: int | None
    ) -> NDArray[np.int64]:
        """Return which examples a client uses in a round: all, or ``limit`` at random."""
        chosen = self.training_part(partition)
        if limit is None or limit >= len(chosen):
            return chosen
        generator = np.random.default_rng(self.seed(config, "round examples", partition))
        return np.sort(generator.choice(chosen, limit, replace=False))

    def examples(
        self, partitions: list[int], parts: list[NDArray[np.int64]], config: ConfigRecord
    ) -> tuple[Tensor, Tensor]:
        """Return the partitions' examples one after another, varied as in all of the round.

        Parameters
        ----------
        partitions : list[int]
            The clients.
        parts : list[NDArray[int64]]
            Which examples of the training split each uses.
        config : ConfigRecord
            The message's, which names the round.

        Returns
        -------
        tuple[Tensor, Tensor]
            Inputs as the model is given them, shape (n, ...), and labels, shape (n, ...), on the
            clients' device.
        """
        dataset, device = self.dataset, self.spec.device
        inputs = dataset.inputs.to_tensor(self.stored_inputs(partitions, parts, config))
        labels = torch.from_numpy(dataset.train.labels[np.concatenate(parts)])
        return inputs.to(device), labels.to(device)

    def training_examples(self, partition: int, varied: int) -> tuple[ClientInputs, Tensor]:
        """Return the inputs and labels that a client trains on, read batch by batch if they vary.

        Parameters
        ----------
        partition : int
            The client.
        varied : int
            The seed of augmentation.
        """
        part, dataset, device = self.training_part(partition), self.dataset, self.spec.device
        labels = torch.from_numpy(dataset.train.labels[part]).to(device)
        return client_inputs(dataset, part, varied, device), labels

    def stored_inputs(
        self, partitions: list[int], parts: list[NDArray[np.int64]], config: ConfigRecord
    ) -> NDArray[Any]:
        """Return the same examples as they are stored, shape (n, *stored_shape)."""
        if self.dataset.augmentation == "none":
            return self.dataset.train.inputs[np.concatenate(parts)]
        varied = [
            StoredInputs(self.dataset, part, self.seed(config, "augmentation", partition))
            for partition, part in zip(partitions, parts, strict=True)
        ]
        return np.concatenate([stored.read() for stored in varied])

    def seed(self, config: ConfigRecord, phase: str, partition: int) -> int:
        """Return the seed of a client's generators in a phase of a round."""
        return derive_seed(self.spec.seed, round_of(config), phase, partition)

    def learning_rate(self, config: ConfigRecord) -> float:
        """Return the learning rate of a round: the message's own, or the schedule's."""
        given = config.get("learning-rate")
        if given is not None:
            return float(given)  # type: ignore[arg-type]
        return learning_rate_at(self.spec.client, round_of(config), self.spec.num_rounds)

    def evaluate(self, partition: int) -> dict[str, Any]:
        """Return the model's metrics on a client's held-out examples, or on all that it has.

        Those of the task that are means over examples, and "num-examples".
        """
        train_unit, test_part = self._split(partition)
        chosen = test_part if len(test_part) else train_unit
        done = evaluate(self.model, self.dataset, self.dataset.train, chosen, self.spec.device)
        own, task = done.task_metrics(), done.task
        weight = task.predicted(done.measured, done.examples)
        return {"num-examples": weight, **{name: own[name] for name in task.means}}
