"""Flower's own simulation: the same ClientApp, strategy and arrays under ``run_simulation``."""

from __future__ import annotations

import time

STARTED = time.perf_counter()

import argparse
from collections.abc import Iterable

from flwr.app import ArrayRecord, Message
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg
from flwr.simulation import run_simulation

from atoll.clients.apps.client_app import make_client_app
from atoll.clients.arrays.model_arrays import ModelArrays
from atoll.clients.models.model_building import build_model
from benchmarks.engines import synthetic
from benchmarks.engines.timing import RoundClock
from benchmarks.workloads import WORKLOADS, data_of, spec_of


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("workload")
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--workers", type=int, default=2)
    arguments = parser.parse_args()
    clock = RoundClock(STARTED)
    if arguments.workload in synthetic.SYNTHETIC:
        task = synthetic.SYNTHETIC[arguments.workload]
        app, arrays, clients, cohort = task.client_app, task.arrays(), task.clients, task.cohort
    else:
        workload = WORKLOADS[arguments.workload]
        dataset, _ = data_of(workload)
        spec = spec_of(workload, arguments.rounds)
        app = make_client_app(spec)
        model = build_model(spec.model, dataset.image_shape, len(dataset.classes), 1)
        arrays: ArrayRecord = ModelArrays(model).read()
        clients, cohort = workload.clients, workload.cohort

    class Timed(FedAvg):
        def aggregate_train(self, server_round: int, replies: Iterable[Message]):
            aggregated = super().aggregate_train(server_round, replies)
            clock.round_ended()
            return aggregated

    server_app = ServerApp()

    @server_app.main()
    def run(grid: Grid, context: object) -> None:
        # Flower counts its nodes before they have registered; this makes it wait for the cohort.
        strategy = Timed(
            fraction_train=cohort / clients,
            fraction_evaluate=0.0,
            min_train_nodes=cohort,
            min_available_nodes=clients,
        )
        result = strategy.start(grid=grid, initial_arrays=arrays, num_rounds=arguments.rounds)
        clock.report(loss=result.train_metrics_clientapp[arguments.rounds].get("loss"))

    run_simulation(
        server_app,
        app,
        clients,
        backend_config={
            "client_resources": {"num_cpus": 1, "num_gpus": 0.0},
            "init_args": {"num_cpus": arguments.workers},
        },
    )


if __name__ == "__main__":
    main()
