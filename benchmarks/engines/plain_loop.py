"""The limit: a loop over clients in one process a core, without a framework.

Each process trains its half of the cohort with the same training function, adds up the updates,
and the sums are added once a round through shared memory.
"""

from __future__ import annotations

import time

STARTED = time.perf_counter()

import argparse
from multiprocessing.synchronize import Barrier

import torch
import torch.multiprocessing as mp
from torch import Tensor

from atoll.clients.data.images.image_tensors import to_tensor
from atoll.clients.models.model_building import build_model
from atoll.clients.settings import ClientSettings
from atoll.clients.training.local_training import train
from atoll.randomness import derive_seed
from benchmarks.engines.timing import RoundClock
from benchmarks.workloads import WORKLOADS, data_of, spec_of


def work(
    rank: int,
    processes: int,
    name: str,
    rounds: int,
    shared: list[Tensor],
    sums: list[list[Tensor]],
    barrier: Barrier,
) -> None:
    torch.set_num_threads(1)
    workload = WORKLOADS[name]
    dataset, partition = data_of(workload)
    spec = spec_of(workload, rounds)
    model = build_model(spec.model, dataset.image_shape, len(dataset.classes), 1)
    parameters = list(model.parameters())
    settings: ClientSettings = spec.client
    for server_round in range(1, rounds + 1):
        barrier.wait()
        for total in sums[rank]:
            total.zero_()
        for client in range(rank, workload.cohort, processes):
            with torch.no_grad():
                for parameter, value in zip(parameters, shared, strict=True):
                    parameter.copy_(value)
            chosen = partition.indices(client)
            images = to_tensor(dataset.train.images[chosen], dataset.mean, dataset.std)
            labels = torch.from_numpy(dataset.train.labels[chosen])
            seed = derive_seed(0, server_round, "train", client)
            train(
                model,
                images,
                labels,
                settings,
                learning_rate=settings.learning_rate,
                generator=torch.Generator().manual_seed(seed),
            )
            with torch.no_grad():
                for total, parameter in zip(sums[rank], parameters, strict=True):
                    total.add_(parameter, alpha=len(labels))
        barrier.wait()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("workload")
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--workers", type=int, default=2)
    arguments = parser.parse_args()
    clock = RoundClock(STARTED)
    workload = WORKLOADS[arguments.workload]
    dataset, _ = data_of(workload)
    spec = spec_of(workload, arguments.rounds)
    model = build_model(spec.model, dataset.image_shape, len(dataset.classes), 1)
    shared = [p.detach().clone().share_memory_() for p in model.parameters()]
    sums = [[torch.zeros_like(p).share_memory_() for p in shared] for _ in range(arguments.workers)]
    context = mp.get_context("spawn")
    barrier = context.Barrier(arguments.workers + 1)
    processes = [
        context.Process(
            target=work,
            args=(
                rank,
                arguments.workers,
                arguments.workload,
                arguments.rounds,
                shared,
                sums,
                barrier,
            ),
        )
        for rank in range(arguments.workers)
    ]
    for process in processes:
        process.start()
    total_weight = workload.cohort * workload.examples
    for _ in range(arguments.rounds):
        barrier.wait()
        barrier.wait()
        for value, *parts in zip(shared, *sums, strict=True):
            value.copy_(sum(parts) / total_weight)
        clock.round_ended()
    for process in processes:
        process.join()
    clock.report()


if __name__ == "__main__":
    main()
