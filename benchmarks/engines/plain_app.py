"""The limit for the app of garments: what it does for each client in a loop, one process a core.

A model is built and loaded for each client, trained by the app's own function, and added up.
"""

from __future__ import annotations

import time

STARTED = time.perf_counter()

import argparse
import sys
from multiprocessing.synchronize import Barrier
from pathlib import Path

import torch
import torch.multiprocessing as mp
from torch import Tensor

from benchmarks.engines.timing import RoundClock

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "apps" / "fashion"))

from fashion.task import Net, load_data, train

BATCH, RATE = 20, 0.1


def work(
    rank: int,
    processes: int,
    data: str,
    rounds: int,
    shared: dict[str, Tensor],
    sums: list[dict[str, Tensor]],
    barrier: Barrier,
) -> None:
    torch.set_num_threads(1)
    images, labels = load_data(data)
    for _ in range(rounds):
        barrier.wait()
        for total in sums[rank].values():
            total.zero_()
        for client in range(rank, len(labels), processes):
            net = Net()
            net.load_state_dict(shared)
            train(net, images[client], labels[client], BATCH, RATE)
            with torch.no_grad():
                for key, value in net.state_dict().items():
                    sums[rank][key].add_(value, alpha=len(labels[client]))
        barrier.wait()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--data", required=True)
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--workers", type=int, default=2)
    arguments = parser.parse_args()
    clock = RoundClock(STARTED)
    torch.manual_seed(1)
    shared = {k: v.clone().share_memory_() for k, v in Net().state_dict().items()}
    sums = [
        {key: torch.zeros_like(value).share_memory_() for key, value in shared.items()}
        for _ in range(arguments.workers)
    ]
    context = mp.get_context("spawn")
    barrier = context.Barrier(arguments.workers + 1)
    processes = [
        context.Process(
            target=work,
            args=(
                rank,
                arguments.workers,
                arguments.data,
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
    examples = load_data(arguments.data)[1].numel()
    for _ in range(arguments.rounds):
        barrier.wait()
        barrier.wait()
        for key, value in shared.items():
            value.copy_(sum(part[key] for part in sums) / examples)
        clock.round_ended()
    for process in processes:
        process.join()
    clock.report()


if __name__ == "__main__":
    main()
