"""Clients trained in one batch: their replies, or the sum of their models."""

from __future__ import annotations

import time
from collections.abc import Sequence
from functools import cached_property

import torch
from flwr.app import ArrayRecord, Context, Message

from atoll.clients.apps.client_resources import ClientResources
from atoll.clients.apps.client_terms import ClientTerms
from atoll.clients.apps.personal_clients import PersonalClients
from atoll.clients.apps.training_messages import (
    answer,
    arrays_of,
    config_of,
    model_arrays_of,
    partition_of,
    proximal_mu_of,
    round_of,
)
from atoll.clients.data.client_inputs import LARGE_BYTES, tensor_bytes
from atoll.clients.training.local_training import TrainingResult
from atoll.clients.training.objective.named_terms import RECORD
from atoll.clients.training.stacked.client_batch import ClientBatch
from atoll.clients.training.stacked.summed_training import SummedTraining
from atoll.clients.training.stacked.vectorized_training import (
    VectorizedTrainer,
    obstacle_to_vectorizing,
)
from atoll.randomness import seed_everything


class VectorizedClients:
    """Vectorised training of a process's clients, on stacked parameters.

    Parameters
    ----------
    resources : ClientResources
        The process's.
    terms : ClientTerms
        What clients minimise beside the loss.
    personal : PersonalClients
        What they have of their own.
    """

    def __init__(
        self, resources: ClientResources, terms: ClientTerms, personal: PersonalClients
    ) -> None:
        self._resources = resources
        self._terms = terms
        self._personal = personal

    @cached_property
    def _trainer(self) -> VectorizedTrainer:
        resources = self._resources
        return VectorizedTrainer(resources.model, resources.spec.client, resources.dataset.task)

    @cached_property
    def obstacle(self) -> str | None:
        """The reason why clients cannot train vectorised, or None if they can."""
        resources = self._resources
        if self._personal.obstacle is not None:
            return self._personal.obstacle
        if resources.spec.client.loss is not None:
            return "client.loss is of one client at a time"
        if self._terms.obstacle is not None:
            return self._terms.obstacle
        mean = len(resources.dataset.train) // resources.count
        if tensor_bytes(resources.dataset.inputs, mean) > LARGE_BYTES:
            return "clients' examples are too many to be in memory at once"
        return obstacle_to_vectorizing(resources.model, resources.dataset.inputs)

    def train(self, messages: Sequence[Message], contexts: Sequence[Context]) -> list[Message]:
        """Answer training messages of several clients, those that ask for the same together."""
        alike: dict[tuple[object, ...], list[int]] = {}
        for place, message in enumerate(messages):
            alike.setdefault(self._asked_for(message), []).append(place)
        answers: dict[int, Message] = {}
        for places in alike.values():
            chosen = [contexts[place] for place in places]
            results = self._train_alike(messages[places[0]], chosen)
            for place, (arrays, result) in zip(places, results, strict=True):
                answers[place] = answer(messages[place], arrays, result)
        return [answers[place] for place in range(len(messages))]

    def _asked_for(self, message: Message) -> tuple[object, ...]:
        """Return all of a message that training depends on; arrays by identity."""
        config = config_of(message)
        arrays = tuple(map(id, arrays_of(message).values()))
        rate = self._resources.learning_rate(config)
        asked_for = tuple(
            (name, *record.items())
            for name, record in message.content.config_records.items()
            if name.startswith(RECORD)
        )
        return (round_of(config), rate, proximal_mu_of(config), asked_for, *arrays)

    def _train_alike(
        self, message: Message, contexts: list[Context]
    ) -> list[tuple[ArrayRecord, TrainingResult]]:
        return self._trainer.train(self._batch(message, contexts))

    def train_and_sum(
        self, message: Message, contexts: list[Context]
    ) -> tuple[SummedTraining, list[float]]:
        """Train the clients of these contexts; return their sum, and the seconds of each."""
        began = time.perf_counter()
        summed = self._trainer.train_and_sum(self._batch(message, contexts))
        share = (time.perf_counter() - began) / len(contexts)
        return summed, [share] * len(contexts)

    def _batch(self, message: Message, contexts: list[Context]) -> ClientBatch:
        """Return the batch of these clients, with the message's model loaded."""
        resources, config = self._resources, config_of(message)
        partitions = [partition_of(context) for context in contexts]
        seeds = [resources.seed(config, "train", partition) for partition in partitions]
        resources.arrays.load(model_arrays_of(message))
        seed_everything(seeds[0])
        parts = [resources.training_part(partition) for partition in partitions]
        inputs, labels = resources.examples(partitions, parts, config)
        counts = [len(part) for part in parts]
        own = zip(torch.split(inputs, counts), torch.split(labels, counts), strict=True)
        terms = [
            self._terms.begin(message, context, partition, *examples)
            for context, partition, examples in zip(contexts, partitions, own, strict=True)
        ]
        return ClientBatch(
            inputs,
            labels,
            counts,
            resources.learning_rate(config),
            [torch.Generator().manual_seed(seed) for seed in seeds],
            proximal_mu_of(config),
            [client for client in terms if client is not None],
        )
