"""One point of :mod:`benchmarks.scaling.scale`, measured in this process and printed as JSON.

Run it: ``python -m benchmarks.scaling.scale_point AXIS SIZE --rounds 3``.
"""

from __future__ import annotations

import time

STARTED = time.perf_counter()

import argparse
import multiprocessing
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from flwr.app import ArrayRecord, ConfigRecord
from flwr.serverapp.strategy import FedAvg, Strategy

from atoll.clients.apps.client_app import ClientSpec, make_client_app
from atoll.clients.arrays.model_arrays import ModelArrays
from atoll.clients.data import Dataset, partition_dataset
from atoll.clients.data.files.dataset import Decoded, Split, write_dataset
from atoll.clients.models.model_building import build_model
from atoll.clients.settings import ClientSettings, DataSettings, ModelSettings
from atoll.platform.cluster.connection import Cluster
from atoll.platform.grid.ray_grid import RayGrid
from atoll.platform.rounds.round_loop import run_rounds
from atoll.platform.rounds.round_options import RoundOptions
from atoll.platform.run_directory.ledger import Ledger
from atoll.platform.runs.federation import Federation, domain_of, write_partition
from benchmarks.engines.synthetic import Synthetic
from benchmarks.engines.timing import RoundClock, peak_mb
from benchmarks.scaling.own_ray import own_ray
from benchmarks.workloads import WORKLOADS, data_of, spec_of

WORKERS = 2
COHORT = 100
LARGE_COHORT = 8
SEED = 0


class Point:
    """Measurements of a point beside its rounds.

    Parameters
    ----------
    rounds : int
        Rounds that are timed; one more goes before them.
    folder : Path
        For the ledger, and for data.
    """

    def __init__(self, rounds: int, folder: Path) -> None:
        self.rounds = rounds
        self.folder = folder
        self.clock = RoundClock(STARTED)
        self.figures: dict[str, float] = {}

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        """Time a step that is taken once; its memory is the peak's growth in it."""
        started, before = time.perf_counter(), peak_mb()
        yield
        self.figures[f"{name}_seconds"] = time.perf_counter() - started
        self.figures[f"{name}_mb"] = peak_mb() - before

    def run(
        self,
        strategy: Strategy,
        grid: RayGrid,
        arrays: ArrayRecord,
        **options: Any,
    ) -> None:
        """Run the rounds with a ledger, as a run does, and report."""
        ledger = Ledger.create(self.folder / "run", "")
        with self.step("rounds"):
            options = RoundOptions(
                observers=[ledger],
                callbacks=[lambda record: self.clock.round_ended()],
                before_checkpoint=ledger.flush,
                **options,
            )
            result = run_rounds(strategy, grid, arrays, self.rounds + 1, options=options)
        assert len(result.train_metrics_clientapp) == self.rounds + 1
        self.figures["worker_peak_mb"] = max(map(peak_of_process, grid.pool.pids()))
        self.clock.report(**self.figures)


def peak_of_process(pid: int) -> float:
    """Return another process's peak memory so far, in MB."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    [peak] = [line.split()[1] for line in lines if line.startswith("VmHWM")]
    return int(peak) / 1024


def everyone() -> FedAvg:
    """Return a strategy that asks all clients to train, and none to evaluate."""
    return FedAvg(fraction_train=1.0, fraction_evaluate=0.0)


def run_synthetic(task: Synthetic, point: Point) -> None:
    """Run clients that send back what they get: the rounds cost what the engine costs."""
    with RayGrid(task.client_app, task.clients, workers=WORKERS, cluster=Cluster()) as grid:
        point.run(everyone(), grid, task.arrays())


def clients(size: int, point: Point) -> None:
    """Ask ``size`` clients a round, each with a model of 1,000 parameters."""
    run_synthetic(Synthetic(size, size, 1000), point)


def parameters(size: int, point: Point) -> None:
    """Ask a few clients a round, each with a model of ``size`` parameters."""
    run_synthetic(Synthetic(LARGE_COHORT, LARGE_COHORT, size, 10), point)


def workers(size: int, point: Point) -> None:
    """Ask a thousand clients to train a CNN, on ``size`` workers."""
    workload = WORKLOADS["cnn-1000x20"]
    dataset, _ = data_of(workload)
    spec = spec_of(workload, point.rounds + 1)
    model = build_model(spec.model, dataset.image_shape, len(dataset.classes), 1)
    app = partial(make_client_app, spec)
    # Both ways of training give the same figures only if no timing chooses between them.
    with RayGrid(
        app, workload.clients, workers=size, vectorize=False, cluster=Cluster(cpus=size)
    ) as grid:
        point.run(everyone(), grid, ModelArrays(model).read())


def population(size: int, point: Point) -> None:
    """Ask a hundred clients a round, of ``size`` that are registered with an example each."""
    os.environ["ATOLL_CACHE"] = str(point.folder / "cache")
    place = point.folder / "data"
    # Elsewhere, so that it does not count as the driver's memory.
    maker = multiprocessing.get_context("spawn").Process(target=write_pixels, args=(size, place))
    maker.start()
    maker.join()
    dataset = Dataset(place)
    with point.step("partition"):
        partition = partition_dataset(dataset, DataSettings(clients=size), SEED)
        assert len(partition.sizes) == size
    spec = ClientSpec(
        dataset=dataset.directory,
        partition=partition.directory,
        model=ModelSettings(name="linear"),
        client=ClientSettings(batch_size=20, epochs=1, learning_rate=0.1),
        num_rounds=point.rounds + 1,
        seed=SEED,
    )
    strategy = FedAvg(fraction_train=1e-12, min_train_nodes=COHORT, fraction_evaluate=0.0)
    arrays = ModelArrays(build_model(spec.model, dataset.image_shape, 10, 1)).read()
    federation = Federation(dataset, partition, spec, strategy, arrays)
    with point.step("histogram"):
        write_partition(point.folder, federation, ())
    cluster = Cluster()
    app = partial(make_client_app, spec)
    with point.step("register"):
        grid = RayGrid(app, size, workers=WORKERS, sizes=partition.sizes, cluster=cluster)
    with grid:
        with point.step("sample"):
            strategy.configure_train(1, arrays, ConfigRecord(), grid)
        point.run(strategy, grid, arrays, domain_of=domain_of(federation))


def write_pixels(size: int, folder: Path) -> None:
    """Write a data set of ``size`` images of one pixel, in ten classes."""
    folder.mkdir()
    pixels = np.arange(size, dtype=np.uint32).astype(np.uint8).reshape(size, 1, 1, 1)
    train = Split(pixels, np.arange(size, dtype=np.int64) % 10)
    test = Split(train.images[:10], train.labels[:10])
    decoded = Decoded(tuple("0123456789"), train, test, normalization=([0.5], [0.5]))
    write_dataset("pixels", decoded, folder)


POINTS: dict[str, Callable[[int, Point], None]] = {
    "clients": clients,
    "population": population,
    "parameters": parameters,
    "workers": workers,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("axis", choices=POINTS)
    parser.add_argument("size", type=int)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    with own_ray(), tempfile.TemporaryDirectory() as folder:
        POINTS[arguments.axis](arguments.size, Point(arguments.rounds, Path(folder)))


if __name__ == "__main__":
    main()
