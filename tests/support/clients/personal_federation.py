"""A small federation for personal methods: through the real ClientApp, and by plain loops."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from flwr.app import ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from torch import Tensor, nn

from atoll.clients.apps.client_app import ClientSpec, make_client_app
from atoll.clients.data.catalog.loading import load_dataset
from atoll.clients.data.files.dataset import Dataset
from atoll.clients.data.partitioning.partition import Partition, partition_dataset
from atoll.clients.personal.method import PersonalClient, PersonalMethod
from atoll.clients.settings import ClientSettings, DataSettings, ModelSettings, PartitionSettings
from atoll.flower import assume_identity
from atoll.flower.arrays import array_record, to_array, view
from atoll.randomness import derive_seed

CLIENTS, ROUNDS, SEED, FRACTION = 3, 3, 7, 0.25
Tensors = dict[str, Tensor]


def normed_network(image_shape: tuple[int, int, int], classes: int) -> nn.Module:
    """Return a network with running statistics and a head."""
    layers = [
        nn.Flatten(),
        nn.Linear(64, 12),
        nn.BatchNorm1d(12),
        nn.ReLU(),
        nn.Linear(12, classes),
    ]
    return nn.Sequential(*layers)


class Multiplied(PersonalMethod):
    """A user's own method: the global model with its parameters multiplied."""

    factor: float = 1.0

    def personalise(self, client: PersonalClient) -> None:
        """Multiply."""
        client.put({name: self.factor * p.detach() for name, p in client.parameters.items()})


def spec_of(client: Mapping[str, Any]) -> ClientSpec:
    """Return a federation of three clients with different labels."""
    dataset = load_dataset("digits")
    partition = PartitionSettings(name="dirichlet", alpha=0.5)
    data = DataSettings(
        dataset="digits", clients=CLIENTS, partition=partition, examples_per_client=60
    )
    settings = {"learning_rate": 0.1, "batch_size": 16, "epochs": 2, **client}
    return ClientSpec(
        dataset=dataset.directory,
        partition=partition_dataset(dataset, data, SEED).directory,
        model=ModelSettings(name=f"{__name__}:normed_network"),
        client=ClientSettings.model_validate(settings),
        num_rounds=ROUNDS,
        seed=SEED,
        client_test_fraction=FRACTION,
    )


class Federation:
    """The real ClientApp, called as a server would.

    Attributes
    ----------
    arrays : Tensors
        The global model, as far as it travels.
    contexts : list[Context]
        Of the clients.
    """

    def __init__(self, client: Mapping[str, Any]) -> None:
        assume_identity()
        self.spec = spec_of(client)
        self.app = make_client_app(self.spec)
        self.contexts = [
            Context(1, i + 1, {"partition-id": i, "num-partitions": CLIENTS}, RecordDict(), {})
            for i in range(CLIENTS)
        ]
        model = self.spec.build_model(Dataset(self.spec.dataset))
        self.arrays = {
            k: v.clone() for k, v in tensors_of(self.spec.arrays_of(model).read()).items()
        }
        self.round = 0

    def train(self, clients: tuple[int, ...] = tuple(range(CLIENTS))) -> list[Message]:
        """Train a round, and average."""
        self.round += 1
        replies = [self.app(self._message("train", i), self.contexts[i]) for i in clients]
        for reply in replies:
            assert not reply.has_error()
        self.arrays = average(
            [tensors_of(reply.content["arrays"]) for reply in replies],
            [int(metrics_of(reply)["num-examples"]) for reply in replies],
        )
        return replies

    def evaluate(self, client: int) -> MetricRecord:
        """Return what a client answers to an evaluation."""
        return metrics_of(self.app(self._message("evaluate", client), self.contexts[client]))

    def _message(self, kind: str, client: int) -> Message:
        arrays = array_record({k: to_array(v.numpy()) for k, v in self.arrays.items()})
        config = ConfigRecord({"server-round": max(1, self.round)})
        content = RecordDict({"arrays": arrays, "config": config})
        return Message(content, dst_node_id=client + 1, message_type=kind)


def tensors_of(record: Any) -> Tensors:
    """Return a record's arrays as tensors."""
    assert isinstance(record, ArrayRecord)
    return {key: torch.from_numpy(np.array(view(array))) for key, array in record.items()}


def metrics_of(message: Message) -> MetricRecord:
    """Return a reply's metrics."""
    assert not message.has_error()
    found = message.content["metrics"]
    assert isinstance(found, MetricRecord)
    return found


def average(models: list[Tensors], weights: list[int]) -> Tensors:
    """Return the weighted mean, in float64."""
    total = sum(weights)
    mean = {
        key: sum(m[key].double() * w for m, w in zip(models, weights, strict=True)) / total
        for key in models[0]
    }
    return {key: torch.as_tensor(mean[key]).to(models[0][key].dtype) for key in models[0]}


class PlainClient:
    """A client's examples and batches without any of our training code."""

    def __init__(self, spec: ClientSpec, client: int) -> None:
        dataset = Dataset(spec.dataset)
        train, test = Partition(spec.partition).split(client, FRACTION, SEED)
        self.client, self.settings = client, spec.client
        inputs, labels = dataset.train.inputs, dataset.train.labels
        self.inputs = dataset.inputs.to_tensor(inputs[train])
        self.labels = torch.from_numpy(labels[train])
        self.test = dataset.inputs.to_tensor(inputs[test]), torch.from_numpy(labels[test])

    def batches(
        self,
        server_round: int,
        phase: str = "train",
        generator: torch.Generator | None = None,
        epochs: int | None = None,
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield the inputs and labels of each step."""
        if generator is None:
            generator = self.generator(server_round, phase)
        for _ in range(epochs or self.settings.epochs or 1):
            order = torch.randperm(len(self.labels), generator=generator)
            for chosen in order.split(self.settings.batch_size):
                yield self.inputs[chosen], self.labels[chosen]

    def generator(self, server_round: int, phase: str) -> torch.Generator:
        """Return the generator of a phase of a round."""
        return torch.Generator().manual_seed(derive_seed(SEED, server_round, phase, self.client))

    def accuracy(self, model: nn.Module) -> float:
        """Return the accuracy on the held-out examples."""
        model.eval()
        inputs, labels = self.test
        return float((model(inputs).argmax(1) == labels).double().mean())

    def descend(
        self,
        model: nn.Module,
        batches: Iterator[tuple[Tensor, Tensor]],
        penalty: Callable[[nn.Module], Tensor] | None = None,
        only: Callable[[str], bool] = lambda name: True,
    ) -> None:
        """Train a model in place by PyTorch's own SGD."""
        model.train()
        chosen = [p for name, p in model.named_parameters() if only(name)]
        optimizer = torch.optim.SGD(chosen, lr=self.settings.learning_rate)
        for inputs, labels in batches:
            loss = F.cross_entropy(model(inputs), labels)
            if penalty is not None:
                loss = loss + penalty(model)
            optimizer.zero_grad()
            model.zero_grad()
            loss.backward()
            optimizer.step()


def initial_model(spec: ClientSpec) -> nn.Module:
    """Return the model that clients begin with."""
    return spec.build_model(Dataset(spec.dataset))


def with_state(model: nn.Module, state: Mapping[str, Tensor]) -> nn.Module:
    """Return a copy of a model with other values in some of its tensors."""
    made = copy.deepcopy(model)
    made.load_state_dict({**made.state_dict(), **state})
    return made


def state_of(model: nn.Module) -> Tensors:
    """Return copies of a model's tensors."""
    return {key: value.detach().clone() for key, value in model.state_dict().items()}
