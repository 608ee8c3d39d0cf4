"""The ClientApp of a NoProp federation: a client trains the blocks that it is asked for.

It is a plain Flower ClientApp. A training message holds the arrays of some blocks and of the
shared part; the answer holds the same ones. Blocks are trained one after another in one module's
place, so a client's memory does not grow with them beyond what it gets and sends.
"""

from __future__ import annotations

import time
from functools import cached_property, lru_cache, partial
from typing import Any

import numpy as np
from flwr.app import Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from numpy.typing import NDArray
from torch import nn

from atoll.clients.apps.local_clients import ClientSpec, RoundExamples
from atoll.clients.apps.training_messages import (
    arrays_of,
    config_of,
    partition_of,
    proximal_mu_of,
    round_of,
)
from atoll.clients.arrays.model_arrays import ModelArrays
from atoll.clients.data.image_dataset import ImageDataset
from atoll.clients.data.partitioning.partition import Partition
from atoll.clients.models.model_building import build_model
from atoll.clients.mods import find_mods
from atoll.clients.noprop.design import Design
from atoll.clients.noprop.example_source import Examples
from atoll.clients.noprop.layer_keys import keys_by_layer
from atoll.clients.noprop.layer_training import (
    LayerTraining,
    client_unit_names,
    unit_seed,
)
from atoll.clients.noprop.training_memory import ClientMemory, budget_of
from atoll.clients.training.evaluation import evaluate
from atoll.clients.training.learning_rates import learning_rate_at
from atoll.randomness import derive_seed

# The action of the query that asks how many blocks a client's memory holds.
CAPACITY = "capacity"


class NoPropClients:
    """The process's clients of a NoProp federation.

    Parameters
    ----------
    spec : ClientSpec
        The federation.
    """

    def __init__(self, spec: ClientSpec) -> None:
        self._spec = spec

    @cached_property
    def _dataset(self) -> ImageDataset:
        return ImageDataset(self._spec.dataset)

    @cached_property
    def _partition(self) -> Partition:
        return Partition(self._spec.partition)

    @cached_property
    def _design(self) -> Design:
        dataset = self._dataset
        return Design.of(self._spec.model, dataset.image_shape, len(dataset.classes))

    @cached_property
    def _memory(self) -> ClientMemory:
        return ClientMemory(self._design, self._spec.client)

    @cached_property
    def _network(self) -> nn.Module:
        dataset = self._dataset
        network = build_model(self._spec.model, dataset.image_shape, len(dataset.classes), 0)
        return network.to(self._spec.device)

    def capacity(self, message: Message, context: Context) -> Message:
        """Answer how many blocks the client's declared memory holds."""
        budget = budget_of(self._spec.client, partition_of(context))
        blocks = self._memory.fitting(budget)
        metrics = MetricRecord({"blocks": blocks, "memory": -1.0 if budget is None else budget})
        return Message(RecordDict({"metrics": metrics}), reply_to=message)

    @property
    def count(self) -> int:
        """How many clients the federation has."""
        return len(self._partition)

    def _split(self, partition: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        spec = self._spec
        return self._partition.split(partition, spec.client_test_fraction, spec.seed)

    def train(self, message: Message, context: Context) -> Message:
        """Train the blocks whose arrays the message holds, each from its own random state."""
        began = time.perf_counter()
        spec, partition, config = self._spec, partition_of(context), config_of(message)
        server_round = round_of(config)
        examples = Examples(
            self._dataset, self._dataset.train, self._split(partition)[0], spec.device
        )
        training = LayerTraining(
            self._design,
            examples,
            spec.client,
            learning_rate=learning_rate_at(spec.client, server_round, spec.num_rounds),
            seed_of=partial(unit_seed, spec.seed, server_round, partition),
            proximal_mu=proximal_mu_of(config),
            device=spec.device,
        )
        done = training.run(arrays_of(message))
        metrics: dict[str, Any] = {
            "num-examples": len(examples),
            "loss": done.loss,
            "layers": done.blocks,
            "peak-memory": self._memory.needed(len(done.blocks)),
            "seconds": time.perf_counter() - began,
        }
        content = RecordDict({"arrays": done.arrays, "metrics": MetricRecord(metrics)})
        return Message(content, reply_to=message)

    def num_examples(self, partition: int) -> int:
        """Return how many examples the client of ``partition`` trains on."""
        return len(self._split(partition)[0])

    def round_examples(self, message: Message, partition: int) -> RoundExamples:
        """Return what the client of ``partition`` trains on when it gets ``message``."""
        spec, server_round = self._spec, round_of(config_of(message))
        chosen = self._split(partition)[0]
        layers = [index for index in keys_by_layer(arrays_of(message)) if index is not None]
        return RoundExamples(
            pixels=self._dataset.train.images[chosen],
            labels=self._dataset.train.labels[chosen],
            indices=chosen,
            batches=(),
            seed=derive_seed(spec.seed, server_round, "train", partition),
            part_seeds={
                name: unit_seed(spec.seed, server_round, partition, name)
                for name in client_unit_names(self._design, layers)
            },
        )

    def evaluate(self, message: Message, context: Context) -> Message:
        """Answer an evaluation message, which holds the whole network."""
        ModelArrays(self._network).load(arrays_of(message))
        train_part, test_part = self._split(partition_of(context))
        chosen = test_part if len(test_part) else train_part
        dataset = self._dataset
        done = evaluate(self._network, dataset, dataset.train, chosen, self._spec.device)
        metrics = MetricRecord(
            {"num-examples": done.examples, "loss": done.loss, "accuracy": done.accuracy}
        )
        return Message(RecordDict({"metrics": metrics}), reply_to=message)


@lru_cache(maxsize=4)
def noprop_clients_of(spec: ClientSpec) -> NoPropClients:
    """Return the process's clients of a federation, however often its app is unpickled."""
    return NoPropClients(spec)


def make_noprop_app(spec: ClientSpec) -> ClientApp:
    """Return the ClientApp of a NoProp federation."""
    clients = noprop_clients_of(spec)
    app = ClientApp()
    app.train(mods=find_mods(spec.client.mods))(clients.train)
    app.evaluate()(clients.evaluate)
    app.query(CAPACITY)(clients.capacity)
    return app
