"""A small federation with domains, in this process: real ClientApp, real strategies, float64."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from flwr.app import ArrayRecord, ConfigRecord, Context, Error, Message, RecordDict
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Strategy
from flwr.supercore.run import Run
from numpy.typing import NDArray
from torch import Tensor, nn

from atoll import flower
from atoll.clients.apps.client_app import ClientSpec, FederatedClientApp, make_client_app
from atoll.clients.apps.local_clients import LocalClients, clients_of
from atoll.clients.arrays.model_arrays import ModelArrays
from atoll.clients.data.files.dataset import Dataset, Decoded, Split, write_dataset
from atoll.clients.data.inputs.images import ImageInputs
from atoll.clients.data.inputs.tokens import TokenInputs
from atoll.clients.data.partitioning.partition import Partition
from atoll.clients.models.model_building import build_model
from atoll.clients.settings import ClientSettings, ModelSettings
from atoll.platform.run_directory.state_tree import random_states, restore_random_states

SIDE = 3
DOMAINS = ("photo", "art", "sketch")
# Clients as {domain: examples}.
Layout = Sequence[Mapping[str, int]]
LAYOUTS: dict[str, Layout] = {
    "one client a domain": [{"photo": 9}, {"art": 13}, {"sketch": 7}],
    "domains split over unequal clients": [
        {"photo": 3},
        {"photo": 6},
        {"art": 2},
        {"art": 10},
        {"art": 1},
        {"sketch": 7},
    ],
    "several domains on a client": [
        {"photo": 9, "art": 4},
        {"art": 9, "sketch": 5},
        {"sketch": 2},
    ],
}


class Float64(nn.Module):
    """A body and a linear head in double precision."""

    def __init__(self, inputs: int, outputs: int, features: int = 4) -> None:
        super().__init__()
        self.body = nn.Sequential(FlatDoubles(), nn.Linear(inputs, features).double(), nn.Tanh())
        self.head = nn.Linear(features, outputs).double()

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.body(images))


class FlatDoubles(nn.Module):
    """Inputs as vectors in double precision."""

    def forward(self, images: Tensor) -> Tensor:
        return images.double().flatten(1)


class Mean(nn.Module):
    """The mean over the places of a sequence."""

    def forward(self, embedded: Tensor) -> Tensor:
        return embedded.mean(1)


class BagOfTokens(nn.Module):
    """The mean of the tokens' embeddings, and a linear head."""

    def __init__(self, inputs: TokenInputs, outputs: int) -> None:
        super().__init__()
        embedding = nn.Embedding(inputs.vocabulary, 4, padding_idx=inputs.padding)
        self.body = nn.Sequential(embedding.double(), Mean(), nn.Tanh())
        self.head = nn.Linear(4, outputs).double()

    def forward(self, tokens: Tensor) -> Tensor:
        return self.head(self.body(tokens))


def bag_of_tokens(inputs: TokenInputs, outputs: int) -> nn.Module:
    return BagOfTokens(inputs, outputs)


def double_regression(inputs: ImageInputs, outputs: int) -> nn.Module:
    return Float64(math.prod(inputs.shape), outputs)


def double_model(image_shape: tuple[int, int, int], classes: int, outputs: int = 0) -> nn.Module:
    return Float64(int(np.prod(image_shape)), outputs or classes)


def single_model(image_shape: tuple[int, int, int], classes: int) -> nn.Module:
    """The same in single precision."""
    return nn.Sequential(
        nn.Flatten(), nn.Linear(int(np.prod(image_shape)), 4), nn.Tanh(), nn.Linear(4, classes)
    )


def double_model_with_a_deep_head(image_shape: tuple[int, int, int], classes: int) -> nn.Module:
    model = Float64(int(np.prod(image_shape)), classes)
    model.head = nn.Sequential(nn.Linear(4, 3), nn.Tanh(), nn.Linear(3, classes)).double()
    return model


class LocalGrid(Grid):
    """A Grid that calls the ClientApp of each node in turn."""

    def __init__(self, app: FederatedClientApp, nodes: int) -> None:
        flower.assume_identity()
        self.app, self.nodes = app, nodes
        self.sent: list[Message] = []
        self.states: dict[int, RecordDict] = {}
        self.failing: dict[tuple[int, str], int] = {}

    def set_run(self, run: Run) -> None:
        raise NotImplementedError

    @property
    def run(self) -> Run:
        raise NotImplementedError

    def create_message(self, *arguments: Any, **named: Any) -> Message:
        raise NotImplementedError

    def get_node_ids(self) -> list[int]:
        return list(range(1, self.nodes + 1))

    def push_messages(self, messages: Iterable[Message]) -> list[str]:
        raise NotImplementedError

    def pull_messages(self, message_ids: Iterable[str]) -> list[Message]:
        raise NotImplementedError

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> list[Message]:
        # Clients live in other processes: what they do to global generators stays there.
        states = random_states()
        replies = []
        for message in sorted(messages, key=lambda m: m.metadata.dst_node_id):
            self.sent.append(message)
            node = message.metadata.dst_node_id
            left = self.failing.get((node, message.metadata.message_type), 0)
            if left:
                self.failing[node, message.metadata.message_type] = left - 1
                replies.append(Message(Error(code=1, reason="out of order"), reply_to=message))
                continue
            config = {"partition-id": node - 1, "num-partitions": self.nodes}
            state = self.states.setdefault(node, RecordDict())
            replies.append(self.app(message, Context(1, node, config, state, {})))
        restore_random_states(states)
        return replies


@dataclass
class SmallFederation:
    """Data, clients and initial parameters; the same data whatever the layout.

    Attributes
    ----------
    data : dict
        By domain: images, labels, and each example's place among its client's of the domain.
    """

    grid: LocalGrid
    arrays: ArrayRecord
    model: nn.Module
    data: dict[str, tuple[Tensor, Tensor, Tensor]]
    clients: LocalClients

    def round(
        self, strategy: Strategy, number: int = 1, arrays: ArrayRecord | None = None
    ) -> tuple[ArrayRecord, dict[str, Any]]:
        """Run a round; return the new parameters and the metrics."""
        before = self.arrays if arrays is None else arrays
        messages = list(strategy.configure_train(number, before, ConfigRecord(), self.grid))
        replies = self.grid.send_and_receive(messages)
        after, metrics = strategy.aggregate_train(number, replies)
        assert after is not None
        return after, dict(metrics or {})


def make_federation(
    folder: Path,
    layout: Layout,
    outputs: int = 3,
    client: ClientSettings | None = None,
    model: str = "double_model",
    as_task: Callable[[Decoded], Decoded] | None = None,
) -> SmallFederation:
    """Make a federation; ``outputs`` of 1 is a sigmoid head for two classes.

    ``as_task`` makes other data of the images and their labels.
    """
    decoded, parts, places = _decoded(layout, max(outputs, 2))
    if as_task is not None:
        decoded = as_task(decoded)
    (folder / "data").mkdir(parents=True)
    write_dataset("small", decoded, folder / "data")
    (folder / "parts").mkdir()
    offsets = np.cumsum([0, *map(len, parts)])
    np.save(folder / "parts" / "offsets.npy", offsets.astype(np.int64))
    np.save(folder / "parts" / "indices.npy", np.concatenate(parts))
    extra = {"outputs": outputs} if model == "double_model" else {}
    name = model if ":" in model else f"tests.support.strategies.small_federation:{model}"
    settings = ModelSettings(name=name, **extra)
    spec = ClientSpec(
        dataset=folder / "data",
        partition=folder / "parts",
        model=settings,
        client=client or ClientSettings(learning_rate=0.5, batch_size=1000, epochs=1),
        num_rounds=10,
        seed=3,
    )
    dataset = Dataset(spec.dataset)
    assert len(Partition(spec.partition)) == len(layout)
    own = build_model(settings, dataset.inputs, dataset.task, seed=4)
    images = dataset.inputs.to_tensor(dataset.train.inputs.copy())
    labels = torch.from_numpy(dataset.train.labels.copy())
    assert dataset.train.domains is not None
    of_domain = {n: np.flatnonzero(dataset.train.domains == i) for i, n in enumerate(DOMAINS)}
    data = {
        name: (images[chosen], labels[chosen], torch.from_numpy(places[chosen]))
        for name, chosen in of_domain.items()
        if len(chosen)
    }
    grid = LocalGrid(make_client_app(spec), len(layout))
    return SmallFederation(grid, ModelArrays(own).read(), own, data, clients_of(spec))


def _decoded(
    layout: Layout, classes: int
) -> tuple[Decoded, list[NDArray[np.int64]], NDArray[np.int64]]:
    """Deal each domain's examples to clients in order; return also each one's place there."""
    sizes = {name: sum(client.get(name, 0) for client in layout) for name in DOMAINS}
    starts = dict(zip(DOMAINS, np.cumsum([0, *sizes.values()]), strict=False))
    total = sum(sizes.values())
    domains = np.repeat(np.arange(len(DOMAINS)), list(sizes.values()))
    images = np.concatenate([_images(i, sizes[name]) for i, name in enumerate(DOMAINS)])
    labels = np.concatenate([_labels(i, sizes[name], classes) for i, name in enumerate(DOMAINS)])
    places, parts = np.zeros(total, np.int64), []
    taken = dict.fromkeys(DOMAINS, 0)
    for client in layout:
        own = []
        for name, count in client.items():
            first = starts[name] + taken[name]
            own.append(np.arange(first, first + count))
            places[own[-1]] = np.arange(count)
            taken[name] += count
        parts.append(np.concatenate(own).astype(np.int64))
    split = Split(images, labels, domains)
    names = tuple(f"class {c}" for c in range(classes))
    return Decoded(names, split, split, DOMAINS), parts, places


def _images(domain: int, count: int) -> NDArray[np.uint8]:
    generator = np.random.default_rng(domain)
    return generator.integers(40 * domain, 120 + 50 * domain, (count, SIDE, SIDE, 1), np.uint8)


def _labels(domain: int, count: int, classes: int) -> NDArray[np.int64]:
    return np.random.default_rng(100 + domain).integers(0, classes, count)


def values(arrays: ArrayRecord) -> dict[str, NDArray[Any]]:
    return {key: array.numpy() for key, array in arrays.items()}


def hex_of(arrays: ArrayRecord) -> str:
    return b"".join(array.numpy().tobytes() for array in arrays.values()).hex()
