"""Specification of a federation's clients, and the record of what one trains on in a round."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from atoll.clients.arrays.model_arrays import ModelArrays
from atoll.clients.arrays.travelling import frozen_sha256
from atoll.clients.data.files.dataset import Dataset
from atoll.clients.models.model_building import build_model, model_seed
from atoll.clients.personal.local_names import local_names
from atoll.clients.settings import ClientSettings, ModelSettings
from atoll.errors import InvalidExperimentError


@dataclass(frozen=True)
class ClientSpec:
    """Specification of a federation's clients: small, and the same for all of them.

    Attributes
    ----------
    dataset, partition : Path
        Folders of the data set and of its partition, readable where clients run.
    model, client : ModelSettings, ClientSettings
        ``[model]`` and ``[client]``.
    num_rounds : int
        For learning-rate schedules.
    seed : int
        The run's seed.
    client_test_fraction : float
        The share of a client's examples that it evaluates on.
    device : str
        "cpu" or "cuda".
    frozen : str or None
        The hash of the model's tensors that do not travel; None if all do.

    Examples
    --------
    >>> from atoll.clients import ClientSettings, ClientSpec, DataSettings, ModelSettings
    >>> from atoll.clients import load_dataset, partition_dataset
    >>> digits = load_dataset("digits")
    >>> partition = partition_dataset(digits, DataSettings(dataset="digits", clients=5), seed=0)
    >>> spec = ClientSpec(
    ...     dataset=digits.directory, partition=partition.directory, num_rounds=10, seed=0,
    ...     model=ModelSettings(name="linear"), client=ClientSettings(learning_rate=0.1),
    ... )
    >>> spec.device, spec.client_test_fraction
    ('cpu', 0.0)
    """

    dataset: Path
    partition: Path
    model: ModelSettings
    client: ClientSettings
    num_rounds: int
    seed: int
    client_test_fraction: float = 0.0
    device: str = "cpu"
    frozen: str | None = None

    def build_model(self, dataset: Dataset) -> nn.Module:
        """Return the federation's model on its device; parameters that travel are the initial ones.

        Raises
        ------
        InvalidExperimentError
            If what does not travel is not the same as where the run was prepared.
        """
        seed = model_seed(self.seed)
        model = build_model(self.model, dataset.inputs, dataset.task, seed)
        found = frozen_sha256(model)
        if self.frozen not in (None, found):
            raise InvalidExperimentError(
                f"model.name = {self.model.name!r}: its frozen parameters have the SHA-256 "
                f"{found}, expected {self.frozen}: they depend on more than seed and weights"
            )
        return model.to(self.device)

    def local_names(self, model: nn.Module) -> frozenset[str]:
        """Return the names of the model's tensors that stay with each client."""
        return local_names(model, self.client.local or ())

    def arrays_of(self, model: nn.Module) -> ModelArrays:
        """Return what of the model travels, as Flower arrays."""
        return ModelArrays(model, self.local_names(model))


@dataclass(frozen=True)
class RoundExamples:
    """Examples and random state with which a client trains in a round.

    Attributes
    ----------
    inputs : NDArray
        As they are stored, shape (n, *stored_shape); images are varied as in that round.
    labels : NDArray
        Shape (n, ...).
    indices : NDArray[int64]
        Shape (n,): which examples of the training split they are.
    batches : tuple[Tensor, ...]
        Per local step the indices of its examples, among the n.
    seed : int
        Of the client's generators in that round.
    part_seeds : Mapping[str, int]
        Where the client trains parts of the model apart, with batches of their own: the seed of
        each, by name.
    """

    inputs: NDArray[Any]
    labels: NDArray[Any]
    indices: NDArray[np.int64]
    batches: tuple[Tensor, ...]
    seed: int
    part_seeds: Mapping[str, int] = field(default_factory=dict)
