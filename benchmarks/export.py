"""A workload's examples as one file, for engines that run outside Atoll's environment."""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

from atoll.clients.data.images.image_tensors import to_tensor
from benchmarks.workloads import WORKLOADS, data_of


def export(name: str, path: Path) -> None:
    """Write the workload's images (clients, examples, channels, height, width) and settings."""
    workload = WORKLOADS[name]
    dataset, partition = data_of(workload)
    images, labels = [], []
    for client in range(workload.clients):
        chosen = partition.indices(client)
        images.append(to_tensor(dataset.train.images[chosen], dataset.mean, dataset.std).numpy())
        labels.append(dataset.train.labels[chosen].astype(np.int64))
    np.savez(
        path,
        images=np.stack(images),
        labels=np.stack(labels),
        model=workload.model,
        batch=workload.batch,
        cohort=workload.cohort,
        learning_rate=workload.learning_rate,
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("workload", choices=sorted(WORKLOADS))
    parser.add_argument("path", type=Path)
    arguments = parser.parse_args()
    export(arguments.workload, arguments.path)
