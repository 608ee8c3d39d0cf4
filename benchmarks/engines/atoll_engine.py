"""Atoll: the workload's rounds on a RayGrid."""

from __future__ import annotations

import time

STARTED = time.perf_counter()

import argparse
from functools import partial

from flwr.app import ArrayRecord
from flwr.serverapp.strategy import FedAvg

from atoll.clients.apps.client_app import make_client_app
from atoll.clients.arrays.model_arrays import ModelArrays
from atoll.clients.models.model_building import build_model
from atoll.platform.cluster.connection import Cluster
from atoll.platform.grid.ray_grid import RayGrid
from atoll.platform.rounds.round_loop import run_rounds
from atoll.platform.rounds.round_options import RoundOptions
from benchmarks.engines import synthetic
from benchmarks.engines.timing import RoundClock
from benchmarks.workloads import WORKLOADS, data_of, spec_of


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("workload")
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--sequential", action="store_true")
    arguments = parser.parse_args()
    clock = RoundClock(STARTED)
    cluster = Cluster()
    if arguments.workload in synthetic.SYNTHETIC:
        task = synthetic.SYNTHETIC[arguments.workload]
        app, arrays, clients, cohort = task.client_app, task.arrays(), task.clients, task.cohort
    else:
        workload = WORKLOADS[arguments.workload]
        dataset, _ = data_of(workload)
        spec = spec_of(workload, arguments.rounds)
        app = partial(make_client_app, spec)
        model = build_model(spec.model, dataset.image_shape, len(dataset.classes), 1)
        arrays: ArrayRecord = ModelArrays(model).read()
        clients, cohort = workload.clients, workload.cohort
    vectorize = False if arguments.sequential else "auto"
    with RayGrid(
        app, clients, workers=arguments.workers, vectorize=vectorize, cluster=cluster
    ) as grid:
        strategy = FedAvg(fraction_train=cohort / clients, fraction_evaluate=0.0)
        options = RoundOptions(callbacks=[lambda record: clock.round_ended()])
        result = run_rounds(strategy, grid, arrays, arguments.rounds, options=options)
        choice = grid.vectorization
        metrics = result.train_metrics_clientapp[arguments.rounds]
    cluster.close()
    clock.report(loss=metrics.get("loss"), vectorized=choice.vectorized, reason=choice.reason)


if __name__ == "__main__":
    main()
