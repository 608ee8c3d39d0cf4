"""The ClientApp of a NoProp federation: a client trains the blocks that it is asked for.

It is a plain Flower ClientApp. A training message holds the arrays of some blocks and of the
shared part; the answer holds the same ones. Blocks are trained one after another in one module's
place, so a client's memory does not grow with them beyond what it gets and sends.
"""

from __future__ import annotations

import time
from functools import cached_property, lru_cache
from typing import Any

import numpy as np
import torch
from flwr.app import ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from numpy.typing import NDArray
from torch import nn

from atoll.clients.arrays import array_record, to_array
from atoll.clients.data.partition import Partition
from atoll.clients.data.store import ImageDataset
from atoll.clients.evaluation import evaluate
from atoll.clients.local_clients import ClientSpec
from atoll.clients.messages import arrays_of, config_of, partition_of, proximal_mu_of, round_of
from atoll.clients.model_arrays import ModelArrays
from atoll.clients.models.build import build_model
from atoll.clients.mods import find_mods
from atoll.clients.noprop.arrays import block_prefix, keys_by_layer, shared_prefix
from atoll.clients.noprop.examples import Examples
from atoll.clients.noprop.memory import ClientMemory, budget_of
from atoll.clients.noprop.network import Design, SharedPart
from atoll.clients.noprop.parts import BlockPart, HeadPart, Part
from atoll.clients.noprop.training import EpochResult, train_epoch
from atoll.clients.schedules import learning_rate_at
from atoll.randomness import derive_seed, seed_everything

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

    def _parts(self, partition: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        spec = self._spec
        return self._partition.split(partition, spec.client_test_fraction, spec.seed)

    def train(self, message: Message, context: Context) -> Message:
        """Train the blocks whose arrays the message holds, each from its own random state."""
        began = time.perf_counter()
        partition, given = partition_of(context), arrays_of(message)
        by_layer = keys_by_layer(given)
        examples = Examples(
            self._dataset, self._dataset.train, self._parts(partition)[0], self._spec.device
        )
        shared_keys = by_layer.pop(None, [])
        blocks = sorted(index for index in by_layer if index is not None)
        results, trained = [], dict(given)
        shared_copies: list[dict[str, NDArray[Any]]] = []
        for index in blocks:
            shared = self._shared_part(given, shared_keys)
            block = self._design.make_block().to(self._spec.device)
            _load(block, given, block_prefix(index))
            part = BlockPart(self._design, index, block, shared)
            results.append(self._train(part, f"block {index}", message, partition, examples))
            trained |= _read(block, block_prefix(index))
            if self._design.is_shared_part_trained_by_blocks:
                shared_copies.append(_values(shared, shared_prefix()))
        trained |= self._trained_shared_part(
            given, shared_keys, shared_copies, message, partition, examples
        )
        metrics: dict[str, Any] = {
            "num-examples": len(examples),
            "loss": sum(r.loss for r in results) / max(1, len(results)),
            "layers": blocks,
            "peak-memory": self._memory.needed(len(blocks)),
            "seconds": time.perf_counter() - began,
        }
        arrays = array_record({key: trained[key] for key in given})
        content = RecordDict({"arrays": arrays, "metrics": MetricRecord(metrics)})
        return Message(content, reply_to=message)

    def _shared_part(self, given: ArrayRecord, keys: list[str]) -> SharedPart:
        shared = self._design.make_shared_part()
        if keys:
            _load(shared, given, shared_prefix())
        return shared.to(self._spec.device)

    def _trained_shared_part(
        self,
        given: ArrayRecord,
        keys: list[str],
        copies: list[dict[str, NDArray[Any]]],
        message: Message,
        partition: int,
        examples: Examples,
    ) -> dict[str, Any]:
        """Return the shared part's arrays: the blocks' mean, or the head trained by itself."""
        if not keys:
            return {}
        if copies:
            # Each block moved a copy of its own; a declared point of agreement is their mean.
            return {
                key: to_array(
                    np.mean([copy[key] for copy in copies], axis=0, dtype=np.float64).astype(
                        copies[0][key].dtype
                    )
                )
                for key in keys
            }
        shared = self._shared_part(given, keys)
        if self._design.variant == "dt":
            part = HeadPart(self._design, shared)
            self._train(part, "head", message, partition, examples)
        return _read(shared, shared_prefix())

    def _train(
        self, part: Part, name: str, message: Message, partition: int, examples: Examples
    ) -> EpochResult:
        spec, config = self._spec, config_of(message)
        server_round = round_of(config)
        # The part's name is in the seed: what a block draws does not depend on the others.
        seed = derive_seed(spec.seed, server_round, "train", partition, name)
        seed_everything(seed)
        return train_epoch(
            part,
            examples,
            spec.client,
            learning_rate=learning_rate_at(spec.client, server_round, spec.num_rounds),
            generator=torch.Generator().manual_seed(seed),
            proximal_mu=proximal_mu_of(config),
        )

    def evaluate(self, message: Message, context: Context) -> Message:
        """Answer an evaluation message, which holds the whole network."""
        ModelArrays(self._network).load(arrays_of(message))
        train_part, test_part = self._parts(partition_of(context))
        chosen = test_part if len(test_part) else train_part
        dataset = self._dataset
        done = evaluate(self._network, dataset, dataset.train, chosen, self._spec.device)
        metrics = MetricRecord(
            {"num-examples": done.examples, "loss": done.loss, "accuracy": done.accuracy}
        )
        return Message(RecordDict({"metrics": metrics}), reply_to=message)


@lru_cache(maxsize=4)
def _clients_of(spec: ClientSpec) -> NoPropClients:
    return NoPropClients(spec)


def make_noprop_app(spec: ClientSpec) -> ClientApp:
    """Return the ClientApp of a NoProp federation."""
    clients = _clients_of(spec)
    app = ClientApp()
    app.train(mods=find_mods(spec.client.mods))(clients.train)
    app.evaluate()(clients.evaluate)
    app.query(CAPACITY)(clients.capacity)
    return app


def _load(module: nn.Module, given: ArrayRecord, prefix: str) -> None:
    own = {key.removeprefix(prefix): a for key, a in given.items() if key.startswith(prefix)}
    ModelArrays(module).load(array_record(own))


def _values(module: nn.Module, prefix: str) -> dict[str, NDArray[Any]]:
    return {prefix + key: value.copy() for key, value in ModelArrays(module).values().items()}


def _read(module: nn.Module, prefix: str) -> dict[str, Any]:
    return {prefix + key: array for key, array in ModelArrays(module).read().items()}
