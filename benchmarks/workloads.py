"""The work that every engine is given."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from atoll.clients.apps.client_app import ClientSpec
from atoll.clients.data import Dataset, Partition, load_dataset, partition_dataset
from atoll.clients.settings import ClientSettings, DataSettings, ModelSettings, PartitionSettings


@dataclass(frozen=True)
class Workload:
    """A federation to be timed: every client of the cohort trains once a round.

    Attributes
    ----------
    dataset : str
        The data set.
    clients, examples : int
        Clients, and examples of each.
    cohort : int
        Clients a round.
    model : str
        The model, by name.
    batch : int
        Examples a step; one pass over the client's examples a round.
    learning_rate : float
        The clients' learning rate.
    """

    dataset: str
    clients: int
    examples: int
    cohort: int
    model: str
    batch: int
    learning_rate: float = 0.1


WORKLOADS = {
    "cnn-1000x20": Workload("fashion-mnist", 1000, 20, 1000, "cnn-small", 20),
    "cnn-100x60": Workload("fashion-mnist", 100, 60, 100, "cnn-small", 20),
    "mlp-1000x20": Workload("fashion-mnist", 1000, 20, 1000, "mlp", 20),
    "quickstart": Workload("fashion-mnist", 2, 2000, 2, "lenet", 32),
    "pfl-cifar10": Workload("cifar10", 1000, 50, 50, "cnn-pfl", 10),
}
SEED = 0


def data_of(workload: Workload) -> tuple[Dataset, Partition]:
    """Return the workload's data, dealt IID."""
    dataset = load_dataset(workload.dataset)
    settings = DataSettings(
        dataset=workload.dataset,
        clients=workload.clients,
        partition=PartitionSettings(name="iid"),
        examples_per_client=workload.examples,
    )
    return dataset, partition_dataset(dataset, settings, SEED)


def spec_of(workload: Workload, rounds: int) -> ClientSpec:
    """Return the workload's clients."""
    dataset, partition = data_of(workload)
    return ClientSpec(
        dataset=Path(dataset.directory),
        partition=Path(partition.directory),
        model=ModelSettings(name=workload.model),
        client=ClientSettings(
            batch_size=workload.batch, epochs=1, learning_rate=workload.learning_rate
        ),
        num_rounds=rounds,
        seed=SEED,
    )
