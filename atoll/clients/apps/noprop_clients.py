"""ClientApp of a NoProp federation: a client trains the blocks whose arrays it is sent.

It is a plain Flower ClientApp. A training message holds the arrays of some blocks and of the
shared part; the reply holds the same ones. Blocks are trained sequentially in one module's memory,
so beyond its messages a client's memory does not grow with their number.
"""

from __future__ import annotations

import time
from functools import cached_property, lru_cache, partial
from typing import Any

from flwr.app import Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

from atoll.clients.apps.client_resources import ClientResources
from atoll.clients.apps.client_spec import ClientSpec, RoundExamples
from atoll.clients.apps.training_messages import (
    arrays_of,
    config_of,
    evaluated,
    partition_of,
    proximal_mu_of,
    round_of,
)
from atoll.clients.mods import find_mods
from atoll.clients.noprop.block_training.example_source import Examples
from atoll.clients.noprop.block_training.layer_training import (
    LayerTraining,
    client_unit_names,
    unit_seed,
)
from atoll.clients.noprop.block_training.training_memory import ClientMemory, budget_of
from atoll.clients.noprop.layer_keys import keys_by_layer
from atoll.clients.noprop.networks.design import Design
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
        self._resources = ClientResources(spec)

    @cached_property
    def _design(self) -> Design:
        dataset = self._resources.dataset
        return Design.of(self._spec.model, dataset.inputs, len(dataset.classes))

    @cached_property
    def _memory(self) -> ClientMemory:
        return ClientMemory(self._design, self._spec.client)

    def capacity(self, message: Message, context: Context) -> Message:
        """Answer how many blocks the client's declared memory holds."""
        budget = budget_of(self._spec.client, partition_of(context))
        blocks = self._memory.fitting(budget)
        metrics = MetricRecord({"blocks": blocks, "memory": -1.0 if budget is None else budget})
        return Message(RecordDict({"metrics": metrics}), reply_to=message)

    @property
    def count(self) -> int:
        """The number of clients in the federation."""
        return self._resources.count

    def train(self, message: Message, context: Context) -> Message:
        """Train the blocks whose arrays the message holds, each from its own random state."""
        began = time.perf_counter()
        spec, partition, config = self._spec, partition_of(context), config_of(message)
        server_round, dataset = round_of(config), self._resources.dataset
        examples = Examples(
            dataset, dataset.train, self._resources.training_part(partition), spec.device
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
        return len(self._resources.training_part(partition))

    def round_examples(self, message: Message, partition: int) -> RoundExamples:
        """Return the examples of the client of ``partition`` for a training message."""
        spec, server_round = self._spec, round_of(config_of(message))
        chosen, split = self._resources.training_part(partition), self._resources.dataset.train
        layers = [index for index in keys_by_layer(arrays_of(message)) if index is not None]
        return RoundExamples(
            inputs=split.inputs[chosen],
            labels=split.labels[chosen],
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
        self._resources.arrays.load(arrays_of(message))
        return evaluated(message, self._resources.evaluate(partition_of(context)))


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
