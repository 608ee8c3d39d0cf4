"""Clients of a strategy that aligns domains: answers to queries, and training on its terms."""

from __future__ import annotations

from functools import cached_property

import numpy as np
import torch
from flwr.app import ConfigRecord, Message
from numpy.typing import NDArray
from torch import Tensor

from atoll.clients.apps.client_resources import ClientResources
from atoll.clients.apps.training_messages import answer, config_of, proximal_mu_of, round_of
from atoll.clients.models.head import SplitModel
from atoll.clients.moments.aligned_client import AlignedClient
from atoll.clients.moments.domain_examples import DomainExamples
from atoll.clients.moments.moment_messages import MomentsQuery, TrainingTerms
from atoll.clients.tasks.output_loss import CROSS_ENTROPY
from atoll.clients.training.example_mods import changed_examples, has_example_mods
from atoll.randomness import seed_everything

# What a process keeps of the examples of clients that are measured before they train, at most.
KEPT_BYTES = 256 * 2**20


class AlignedClients:
    """Moments and training of a process's clients, for strategies that align domains.

    Parameters
    ----------
    resources : ClientResources
        The process's; the messages' arrays are loaded into its model before each call.
    """

    def __init__(self, resources: ClientResources) -> None:
        self._resources = resources
        self._kept: dict[tuple[int, int | None, int | None], DomainExamples] = {}

    @cached_property
    def _client(self) -> AlignedClient:
        resources = self._resources
        loss = resources.dataset.task.output_loss or CROSS_ENTROPY
        return AlignedClient(SplitModel(resources.model, loss), resources.spec.client)

    def train(self, message: Message, partition: int, terms: TrainingTerms) -> Message:
        """Answer a training message that has terms for the client's loss."""
        resources, config = self._resources, config_of(message)
        seed = resources.seed(config, "train", partition)
        seed_everything(seed)
        result = self._client.train(
            self.examples(partition, config, terms.examples),
            terms,
            learning_rate=resources.learning_rate(config),
            seed=seed,
            proximal_mu=proximal_mu_of(config),
        )
        if result.gradient is None:
            arrays = resources.arrays.read()
        else:
            arrays = resources.arrays.read_gradient(result.gradient)
        reply = answer(message, arrays, result.training)
        reply.content.metric_records["metrics"].update(result.metrics)
        return reply

    def answer_query(self, message: Message, partition: int) -> Message:
        """Answer a query for moments; see :mod:`atoll.clients.moments`."""
        config = config_of(message)
        seed_everything(self._resources.seed(config, "train", partition))
        query = MomentsQuery.from_records(message.content)
        examples = self.examples(partition, config, query.examples)
        return Message(self._client.measure(examples, query).records(), reply_to=message)

    def examples(self, partition: int, config: ConfigRecord, limit: int | None) -> DomainExamples:
        """Return the examples that a client uses in a round, the same for every message of it.

        A round has several messages to a client, so its examples are kept, within
        ``KEPT_BYTES`` for all clients.
        """
        if has_example_mods():
            return self._load(partition, config, limit)
        drawn_in = None if limit is None else round_of(config)
        key = (partition, limit, drawn_in)
        if key not in self._kept:
            loaded = self._load(partition, config, limit)
            self._kept = {k: kept for k, kept in self._kept.items() if k[2] == drawn_in}
            left = KEPT_BYTES - loaded.nbytes
            while self._kept and sum(kept.nbytes for kept in self._kept.values()) > left:
                del self._kept[next(iter(self._kept))]
            self._kept[key] = loaded
        return self._kept[key]

    def _load(self, partition: int, config: ConfigRecord, limit: int | None) -> DomainExamples:
        resources = self._resources
        chosen = resources.round_part(partition, config, limit)
        images, labels = changed_examples(*resources.examples([partition], [chosen], config))
        domains, names = self._domains(chosen, partition)
        return DomainExamples(images, labels, domains.to(resources.spec.device), names)

    def _domains(self, chosen: NDArray[np.int64], partition: int) -> tuple[Tensor, list[str]]:
        """Return the domain of each example; without domains, a client is one of its own."""
        dataset = self._resources.dataset
        given = dataset.train.domains
        if given is None:
            return torch.zeros(len(chosen), dtype=torch.int64), [f"client {partition}"]
        held, places = np.unique(given[chosen], return_inverse=True)
        return torch.from_numpy(places), [dataset.domains[index] for index in held]
