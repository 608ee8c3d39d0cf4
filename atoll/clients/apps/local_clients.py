"""The clients of a process: local training and evaluation on partitions of a real data set.

What is costly to make (the mapped data, the model) is made once a process and kept from message
to message.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from flwr.app import ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from numpy.typing import NDArray
from torch import Tensor

from atoll.clients.apps.messages import (
    answer,
    arrays_of,
    config_of,
    partition_of,
    proximal_mu_of,
    round_of,
)
from atoll.clients.arrays.model_arrays import ModelArrays
from atoll.clients.arrays.weighted_sum import WeightedSum
from atoll.clients.data.client_images import (
    LARGE_BYTES,
    VariedImages,
    client_images,
    float_bytes,
)
from atoll.clients.data.partitioning.partition import Partition
from atoll.clients.data.store import ImageDataset
from atoll.clients.data.tensors import to_tensor
from atoll.clients.models.build import build_model
from atoll.clients.models.head import SplitModel
from atoll.clients.moments.client import AlignedClient
from atoll.clients.moments.examples import DomainExamples
from atoll.clients.moments.messages import MomentsQuery, TrainingTerms
from atoll.clients.settings import ClientSettings, ModelSettings
from atoll.clients.training.evaluation import evaluate
from atoll.clients.training.local_training import TrainingResult, batches, train
from atoll.clients.training.schedules import learning_rate_at
from atoll.clients.training.summed_training import SummedTraining
from atoll.clients.training.vectorized import VectorizedTrainer, obstacle_to_vectorizing
from atoll.randomness import derive_seed, seed_everything

# What a process keeps of the examples of clients that are measured before they train, at most.
KEPT_BYTES = 256 * 2**20


@dataclass(frozen=True)
class ClientSpec:
    """What every client of a federation needs to know; small, and the same for all.

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
    """

    dataset: Path
    partition: Path
    model: ModelSettings
    client: ClientSettings
    num_rounds: int
    seed: int
    client_test_fraction: float = 0.0
    device: str = "cpu"


@dataclass(frozen=True)
class RoundExamples:
    """What a client trains on in a round.

    Attributes
    ----------
    pixels : NDArray[uint8]
        Shape (n, height, width, channels), varied as in that round.
    labels, indices : NDArray[int64]
        Shape (n,): the labels, and which examples of the training split they are.
    batches : tuple[Tensor, ...]
        Per local step the indices of its examples, among the n.
    seed : int
        Of the client's generators in that round.
    part_seeds : Mapping[str, int]
        Where the client trains parts of the model apart, with batches of their own: the seed of
        each, by name.
    """

    pixels: NDArray[np.uint8]
    labels: NDArray[np.int64]
    indices: NDArray[np.int64]
    batches: tuple[Tensor, ...]
    seed: int
    part_seeds: Mapping[str, int] = field(default_factory=dict)


class LocalClients:
    """The process's clients: one mapped data set, one model, used by each in turn."""

    def __init__(self, spec: ClientSpec) -> None:
        self._spec = spec
        self._kept: dict[tuple[int, int | None, int | None], DomainExamples] = {}

    def __reduce__(self) -> tuple[Any, ...]:
        return clients_of, (self._spec,)

    @cached_property
    def _dataset(self) -> ImageDataset:
        return ImageDataset(self._spec.dataset)

    @cached_property
    def _partition(self) -> Partition:
        return Partition(self._spec.partition)

    @property
    def count(self) -> int:
        """How many clients the federation has."""
        return len(self._partition)

    @cached_property
    def _model(self) -> torch.nn.Module:
        dataset = self._dataset
        model = build_model(self._spec.model, dataset.image_shape, len(dataset.classes), 0)
        return model.to(self._spec.device)

    @cached_property
    def _arrays(self) -> ModelArrays:
        return ModelArrays(self._model)

    @cached_property
    def _vectorized(self) -> VectorizedTrainer:
        return VectorizedTrainer(self._model, self._spec.client)

    @cached_property
    def _aligned(self) -> AlignedClient:
        return AlignedClient(SplitModel(self._model), self._spec.client)

    @cached_property
    def obstacle(self) -> str | None:
        """Why clients cannot train together, or None if they can."""
        mean = len(self._dataset.train) // self.count
        if float_bytes(self._dataset, mean) > LARGE_BYTES:
            return "clients' images are too many to be in memory at once"
        return obstacle_to_vectorizing(self._model, self._dataset.image_shape)

    def num_examples(self, partition: int) -> int:
        """Return how many examples the client of ``partition`` trains on."""
        return len(self._training_part(partition))

    def _training_part(self, partition: int) -> NDArray[np.int64]:
        spec = self._spec
        return self._partition.split(partition, spec.client_test_fraction, spec.seed)[0]

    def _examples(
        self, partitions: list[int], parts: list[NDArray[np.int64]], config: ConfigRecord
    ) -> tuple[Tensor, Tensor]:
        """Return the partitions' examples one after another, varied as in all of the round."""
        dataset, device = self._dataset, self._spec.device
        images = to_tensor(self._pixels(partitions, parts, config), dataset.mean, dataset.std)
        labels = torch.from_numpy(dataset.train.labels[np.concatenate(parts)])
        return images.to(device), labels.to(device)

    def _pixels(
        self, partitions: list[int], parts: list[NDArray[np.int64]], config: ConfigRecord
    ) -> NDArray[np.uint8]:
        if self._dataset.augmentation == "none":
            return self._dataset.train.images[np.concatenate(parts)]
        varied = [
            VariedImages(self._dataset, part, self._seed(config, "augmentation", partition))
            for partition, part in zip(partitions, parts, strict=True)
        ]
        return np.concatenate([images.pixels() for images in varied])

    def _seed(self, config: ConfigRecord, phase: str, partition: int) -> int:
        return derive_seed(self._spec.seed, round_of(config), phase, partition)

    def _learning_rate(self, config: ConfigRecord) -> float:
        given = config.get("learning-rate")
        if given is not None:
            return float(given)  # type: ignore[arg-type]
        return learning_rate_at(self._spec.client, round_of(config), self._spec.num_rounds)

    def train(self, message: Message, context: Context) -> Message:
        """Answer a training message."""
        partition = partition_of(context)
        self._arrays.load(arrays_of(message))
        terms = TrainingTerms.from_records(message.content)
        if terms is not None:
            return self._train_aligned(message, partition, terms)
        result = self._train_partition(config_of(message), partition)
        return answer(message, self._arrays.read(), result)

    def sum_in_turn(
        self, message: Message, partitions: list[int]
    ) -> tuple[SummedTraining, list[float]]:
        """Train the clients of these partitions one after another; return their sum."""
        config = config_of(message)
        self._arrays.load(arrays_of(message))
        start = self._arrays.snapshot()
        summed, seconds = SummedTraining(WeightedSum(), []), []
        for partition in partitions:
            began = time.perf_counter()
            self._arrays.restore(start)
            result = self._train_partition(config, partition)
            summed.total.add_values(self._arrays.values(), result.examples)
            summed.results.append(result)
            seconds.append(time.perf_counter() - began)
        return summed, seconds

    def _train_partition(self, config: ConfigRecord, partition: int) -> TrainingResult:
        seed = self._seed(config, "train", partition)
        # Dropout draws from the global generator; stock Flower does not seed it for us.
        seed_everything(seed)
        part = self._training_part(partition)
        varied = self._seed(config, "augmentation", partition)
        labels = torch.from_numpy(self._dataset.train.labels[part])
        return train(
            self._model,
            client_images(self._dataset, part, varied, self._spec.device),
            labels.to(self._spec.device),
            self._spec.client,
            learning_rate=self._learning_rate(config),
            generator=torch.Generator().manual_seed(seed),
            proximal_mu=proximal_mu_of(config),
        )

    def _train_aligned(self, message: Message, partition: int, terms: TrainingTerms) -> Message:
        """Answer the training message of a strategy that aligns domains."""
        config = config_of(message)
        seed = self._seed(config, "train", partition)
        seed_everything(seed)
        result = self._aligned.train(
            self.domain_examples(partition, config, terms.examples),
            terms,
            learning_rate=self._learning_rate(config),
            seed=seed,
            proximal_mu=proximal_mu_of(config),
        )
        if result.gradient is None:
            arrays = self._arrays.read()
        else:
            arrays = self._arrays.read_gradient(result.gradient)
        reply = answer(message, arrays, result.training)
        reply.content.metric_records["metrics"].update(result.metrics)
        return reply

    def answer_query(self, message: Message, context: Context) -> Message:
        """Answer a query for moments; see :mod:`atoll.clients.moments`."""
        partition = partition_of(context)
        self._arrays.load(arrays_of(message))
        seed_everything(self._seed(config_of(message), "train", partition))
        query = MomentsQuery.from_records(message.content)
        examples = self.domain_examples(partition, config_of(message), query.examples)
        return Message(self._aligned.measure(examples, query).records(), reply_to=message)

    def domain_examples(
        self, partition: int, config: ConfigRecord, limit: int | None
    ) -> DomainExamples:
        """Return what the client uses in a round: the same, whichever message asks.

        A round has several messages to a client, so its examples are kept, if there is room.
        """
        drawn_in = None if limit is None else round_of(config)
        key = (partition, limit, drawn_in)
        if key not in self._kept:
            loaded = self._load_domain_examples(partition, config, limit)
            self._kept = {k: kept for k, kept in self._kept.items() if k[2] == drawn_in}
            room = KEPT_BYTES - loaded.nbytes
            while self._kept and sum(kept.nbytes for kept in self._kept.values()) > room:
                del self._kept[next(iter(self._kept))]
            self._kept[key] = loaded
        return self._kept[key]

    def _load_domain_examples(
        self, partition: int, config: ConfigRecord, limit: int | None
    ) -> DomainExamples:
        chosen = self._chosen(partition, config, limit)
        images, labels = self._examples([partition], [chosen], config)
        domains, names = self._domains(chosen, partition)
        return DomainExamples(images, labels, domains.to(self._spec.device), names)

    def _chosen(self, partition: int, config: ConfigRecord, limit: int | None) -> NDArray[np.int64]:
        """Return which examples a client uses in a round: all, or ``limit`` at random."""
        chosen = self._training_part(partition)
        if limit is None or limit >= len(chosen):
            return chosen
        generator = np.random.default_rng(self._seed(config, "round examples", partition))
        return np.sort(generator.choice(chosen, limit, replace=False))

    def round_examples(self, message: Message, partition: int) -> RoundExamples:
        """Return what the client of ``partition`` trains on when it gets ``message``.

        It depends on the federation, the message's config and the partition alone, so that any
        process can tell. A client that is asked for a gradient or for moments takes no step.
        """
        config = config_of(message)
        seed = self._seed(config, "train", partition)
        limit, takes_no_step = _asked_of(message)
        chosen = self._chosen(partition, config, limit)
        generator = torch.Generator().manual_seed(seed)
        return RoundExamples(
            pixels=self._pixels([partition], [chosen], config),
            labels=self._dataset.train.labels[chosen],
            indices=chosen,
            batches=()
            if takes_no_step
            else tuple(batches(len(chosen), self._spec.client, generator)),
            seed=seed,
        )

    def _domains(self, chosen: NDArray[np.int64], partition: int) -> tuple[Tensor, list[str]]:
        """Return the domain of each example; without domains, a client is one of its own."""
        given = self._dataset.train.domains
        if given is None:
            return torch.zeros(len(chosen), dtype=torch.int64), [f"client {partition}"]
        held, places = np.unique(given[chosen], return_inverse=True)
        return torch.from_numpy(places), [self._dataset.domains[index] for index in held]

    def evaluate(self, message: Message, context: Context) -> Message:
        """Answer an evaluation message: on the client's held-out examples, or on all it has."""
        partition = partition_of(context)
        self._arrays.load(arrays_of(message))
        spec = self._spec
        train_part, test_part = self._partition.split(
            partition, spec.client_test_fraction, spec.seed
        )
        chosen = test_part if len(test_part) else train_part
        done = evaluate(self._model, self._dataset, self._dataset.train, chosen, spec.device)
        metrics = MetricRecord(
            {"num-examples": done.examples, "loss": done.loss, "accuracy": done.accuracy}
        )
        return Message(RecordDict({"metrics": metrics}), reply_to=message)

    def train_together(self, messages: list[Message], contexts: list[Context]) -> list[Message]:
        """Answer several training messages, those that ask for the same at once."""
        alike: dict[tuple[object, ...], list[int]] = {}
        answers: dict[int, Message] = {}
        for place, message in enumerate(messages):
            if TrainingTerms.are_in(message.content):
                # Domains, weights and moments differ from client to client.
                answers[place] = self.train(message, contexts[place])
            else:
                alike.setdefault(self._asked_for(message), []).append(place)
        for places in alike.values():
            partitions = [partition_of(contexts[place]) for place in places]
            results = self._train_partitions(messages[places[0]], partitions)
            for place, (arrays, result) in zip(places, results, strict=True):
                answers[place] = answer(messages[place], arrays, result)
        return [answers[place] for place in range(len(messages))]

    def _asked_for(self, message: Message) -> tuple[object, ...]:
        """Return all of a message that training depends on; arrays by identity."""
        config = config_of(message)
        arrays = tuple(map(id, arrays_of(message).values()))
        return (round_of(config), self._learning_rate(config), proximal_mu_of(config), *arrays)

    def _train_partitions(
        self, message: Message, partitions: list[int]
    ) -> list[tuple[ArrayRecord, TrainingResult]]:
        return self._vectorized.train(**self._training(message, partitions))

    def sum_at_once(
        self, message: Message, partitions: list[int]
    ) -> tuple[SummedTraining, list[float]]:
        """Train the clients of these partitions together; return their sum."""
        began = time.perf_counter()
        summed = self._vectorized.train_and_sum(**self._training(message, partitions))
        share = (time.perf_counter() - began) / len(partitions)
        return summed, [share] * len(partitions)

    def _training(self, message: Message, partitions: list[int]) -> dict[str, Any]:
        """Return what the trainer needs for these partitions, with the model loaded."""
        config = config_of(message)
        seeds = [self._seed(config, "train", partition) for partition in partitions]
        self._arrays.load(arrays_of(message))
        seed_everything(seeds[0])
        parts = [self._training_part(partition) for partition in partitions]
        images, labels = self._examples(partitions, parts, config)
        return {
            "images": images,
            "labels": labels,
            "counts": [len(part) for part in parts],
            "learning_rate": self._learning_rate(config),
            "generators": [torch.Generator().manual_seed(seed) for seed in seeds],
            "proximal_mu": proximal_mu_of(config),
        }


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
