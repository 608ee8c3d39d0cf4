"""Clients of a process: local training and evaluation on partitions of a data set."""

from __future__ import annotations

import time
from functools import lru_cache
from typing import Any

import torch
from flwr.app import Context, Message
from torch import Tensor

from atoll.clients.apps.aligned_clients import AlignedClients
from atoll.clients.apps.client_resources import ClientResources
from atoll.clients.apps.client_spec import ClientSpec, RoundExamples
from atoll.clients.apps.client_terms import ClientTerms
from atoll.clients.apps.leaving_clients import LeavingClients
from atoll.clients.apps.personal_clients import PersonalClients
from atoll.clients.apps.training_messages import (
    answer,
    arrays_of,
    config_of,
    model_arrays_of,
    partition_of,
    proximal_mu_of,
    term_arrays_of,
)
from atoll.clients.apps.vectorized_clients import VectorizedClients
from atoll.clients.arrays.weighted_sum import WeightedSum
from atoll.clients.data.client_inputs import ClientInputs
from atoll.clients.moments.moment_messages import MomentsQuery, TrainingTerms
from atoll.clients.training.example_mods import changed_examples, has_example_mods
from atoll.clients.training.local_training import TrainingResult, batches, train
from atoll.clients.training.objective.node_memory import NodeMemory
from atoll.clients.training.selection import SELECTION, selected
from atoll.clients.training.stacked.summed_training import SummedTraining
from atoll.clients.training.terms.score_histogram import HISTOGRAM
from atoll.randomness import seed_everything


class LocalClients:
    """Clients of a process, which train one after another or together.

    Parameters
    ----------
    spec : ClientSpec
        The federation's.

    Attributes
    ----------
    aligned : AlignedClients
        Their part in strategies that align domains.
    personal : PersonalClients
        What they have of their own.
    vectorized : VectorizedClients
        Their training in one batch.
    terms : ClientTerms
        What they minimise beside the loss.
    """

    def __init__(self, spec: ClientSpec) -> None:
        self._spec = spec
        self._resources = ClientResources(spec)
        self.terms = ClientTerms(self._resources)
        self.aligned = AlignedClients(self._resources)
        self.personal = PersonalClients(self._resources)
        self.vectorized = VectorizedClients(self._resources, self.terms, self.personal)
        self._leaving = LeavingClients(self._resources)

    def __reduce__(self) -> tuple[Any, ...]:
        return clients_of, (self._spec,)

    @property
    def count(self) -> int:
        """The number of clients in the federation."""
        return self._resources.count

    def num_examples(self, partition: int) -> int:
        """Return how many examples the client of ``partition`` trains on."""
        return len(self._resources.training_part(partition))

    def train(self, message: Message, context: Context) -> Message:
        """Answer a training message."""
        partition = partition_of(context)
        self._resources.arrays.load(model_arrays_of(message))
        terms = TrainingTerms.from_records(message.content)
        if terms is not None:
            return self.aligned.train(message, partition, terms)
        result = self.personal.train(
            message, context, lambda: self._train_partition(message, context, partition)
        )
        return answer(message, self._resources.arrays.read(), result)

    def train_together(self, messages: list[Message], contexts: list[Context]) -> list[Message]:
        """Answer several training messages, those that ask for the same in one batch."""
        answers: dict[int, Message] = {}
        batched: list[int] = []
        for place, message in enumerate(messages):
            is_alone = self.terms.obstacle_in(message) is not None
            if is_alone or TrainingTerms.are_in(message.content):
                # Domains, weights and moments differ from client to client.
                answers[place] = self.train(message, contexts[place])
            else:
                batched.append(place)
        done = self.vectorized.train(
            [messages[place] for place in batched],
            [contexts[place] for place in batched],
        )
        answers.update(zip(batched, done, strict=True))
        return [answers[place] for place in range(len(messages))]

    def train_and_sum(
        self, message: Message, contexts: list[Context]
    ) -> tuple[SummedTraining, list[float]]:
        """Train the clients of these contexts one after another.

        Returns
        -------
        tuple[SummedTraining, list[float]]
            The sum of their models, and the seconds of each.
        """
        arrays = self._resources.arrays
        arrays.load(arrays_of(message))
        start = arrays.snapshot()
        summed, seconds = SummedTraining(WeightedSum(), []), []
        for context in contexts:
            began = time.perf_counter()
            arrays.restore(start)
            result = self._train_partition(message, context, partition_of(context))
            summed.total.add_values(arrays.values(), result.examples)
            summed.results.append(result)
            seconds.append(time.perf_counter() - began)
        return summed, seconds

    def _train_partition(
        self, message: Message, context: Context, partition: int
    ) -> TrainingResult:
        resources, spec, config = self._resources, self._spec, config_of(message)
        seed = resources.seed(config, "train", partition)
        # Dropout draws from the global generator; stock Flower does not seed it for us.
        seed_everything(seed)
        varied = resources.seed(config, "augmentation", partition)
        inputs, labels = resources.training_examples(partition, varied)
        if has_example_mods():
            inputs, labels = changed_examples(inputs[torch.arange(len(labels))], labels)
        return train(
            resources.model,
            inputs,
            labels,
            spec.client,
            learning_rate=resources.learning_rate(config),
            generator=torch.Generator().manual_seed(seed),
            task=resources.dataset.task,
            proximal_mu=proximal_mu_of(config),
            kept=self._kept(message, context, inputs, labels, seed),
            terms=self.terms.begin(message, context, partition, inputs, labels),
        )

    def _kept(
        self, message: Message, context: Context, inputs: ClientInputs, labels: Tensor, seed: int
    ) -> Tensor | None:
        """Return the examples that a client trains on, at the model that is loaded."""
        selection, task = self._spec.client.selection, self._resources.dataset.task
        if selection is None:
            return None
        memory, sent = NodeMemory(context.state, SELECTION), term_arrays_of(message, SELECTION)
        model, counts = self._resources.model, sent.get(HISTOGRAM)
        return selected(selection, memory, model, task, inputs, labels, seed, counts)

    def ascend(self, message: Message, context: Context) -> Message:
        """Answer a message of unlearning; see :mod:`atoll.clients.apps.leaving_clients`."""
        return self._leaving.ascend(message, context)

    def answer_query(self, message: Message, context: Context) -> Message:
        """Answer a query for moments; see :mod:`atoll.clients.moments`."""
        self._resources.arrays.load(arrays_of(message))
        return self.aligned.answer_query(message, partition_of(context))

    def evaluate(self, message: Message, context: Context) -> Message:
        """Answer an evaluation message: on the client's held-out examples, or on all it has."""
        return self.personal.evaluate(message, context)

    def round_examples(self, message: Message, partition: int) -> RoundExamples:
        """Return the examples of the client of ``partition`` for a training message.

        It depends on the federation, the message's config and the partition alone, so that any
        process can tell. A client that is asked for a gradient or for moments takes no step.
        """
        resources, config = self._resources, config_of(message)
        seed = resources.seed(config, "train", partition)
        limit, takes_no_step = _asked_of(message)
        chosen = resources.round_part(partition, config, limit)
        generator = torch.Generator().manual_seed(seed)
        return RoundExamples(
            inputs=resources.stored_inputs([partition], [chosen], config),
            labels=resources.dataset.train.labels[chosen],
            indices=chosen,
            batches=()
            if takes_no_step
            else tuple(batches(len(chosen), self._spec.client, generator)),
            seed=seed,
        )


def _asked_of(message: Message) -> tuple[int | None, bool]:
    """Return how many examples a message limits a client to, and whether it takes no step."""
    if not message.metadata.message_type.startswith("train"):
        return MomentsQuery.from_records(message.content).examples, True
    terms = TrainingTerms.from_records(message.content)
    return (None, False) if terms is None else (terms.examples, terms.replies_gradient)


@lru_cache(maxsize=4)
def clients_of(spec: ClientSpec) -> LocalClients:
    """Return the process's clients of a federation, however often its app is unpickled."""
    return LocalClients(spec)
