"""Breakdown of the time of a workload's round in Atoll, or of the start.

Run it: ``python -m benchmarks.cost.where_time_goes NAME``, with a workload or "start".
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from functools import partial
from statistics import median

from flwr.app import Message
from flwr.serverapp.strategy import FedAvg

from atoll.clients.apps.client_app import make_client_app
from atoll.clients.arrays.model_arrays import ModelArrays
from atoll.clients.models.model_building import build_model
from atoll.platform.callbacks.observers import RoundRecord
from atoll.platform.grid.ray_grid import RayGrid
from atoll.platform.rounds.round_loop import run_rounds
from atoll.platform.rounds.round_options import RoundOptions
from benchmarks.engines import synthetic
from benchmarks.workloads import WORKLOADS, data_of, spec_of

WORKERS = 2
STEPS = {
    "ray.init, nothing else running": "import ray; ray.init(address='local', "
    "include_dashboard=False, logging_level='ERROR')",
    "import torch": "import torch",
    "import of our ClientApp (torch with it)": "import atoll.clients.apps.client_app",
}


class Watched(FedAvg):
    """FedAvg that adds up how long it takes."""

    def __init__(self, **settings: float) -> None:
        super().__init__(**settings)
        self.seconds: dict[str, float] = {}

    def configure_train(self, *arguments: object, **named: object) -> Iterable[Message]:
        """Configure, timed."""
        return self._timed("configure", super().configure_train, *arguments, **named)

    def aggregate_train(self, *arguments: object, **named: object):
        """Aggregate, timed."""
        return self._timed("aggregate", super().aggregate_train, *arguments, **named)

    def _timed(self, name: str, function: Callable, *arguments: object, **named: object):
        started = time.perf_counter()
        result = function(*arguments, **named)
        self.seconds[name] = time.perf_counter() - started
        return result


def profile_rounds(name: str, rounds: int) -> None:
    """Print the parts of a workload's median round."""
    if name in synthetic.SYNTHETIC:
        task = synthetic.SYNTHETIC[name]
        app, arrays, clients, cohort = task.client_app, task.arrays(), task.clients, task.cohort
    else:
        workload = WORKLOADS[name]
        dataset, _ = data_of(workload)
        spec = spec_of(workload, rounds)
        app = partial(make_client_app, spec)
        model = build_model(spec.model, dataset.image_shape, len(dataset.classes), 1)
        arrays, clients, cohort = ModelArrays(model).read(), workload.clients, workload.cohort
    strategy = Watched(fraction_train=cohort / clients, fraction_evaluate=0.0)
    parts: list[dict[str, float]] = []

    def note(record: RoundRecord) -> None:
        busy = sum(record.clients["seconds"]) / WORKERS
        parts.append({"round": record.seconds, "clients": busy, **strategy.seconds})

    with RayGrid(app, clients, workers=WORKERS, vectorize="auto") as grid:
        # Its aggregation is FedAvg's, though a method of its own stands before it.
        options = RoundOptions(reduce=True, callbacks=[note])
        run_rounds(strategy, grid, arrays, rounds, options=options)
    whole = median(part["round"] for part in parts[2:])
    print(f"{name}: a round takes {whole * 1e3:.1f} ms, of which")
    for part in ("clients", "configure", "aggregate"):
        value = median(some[part] for some in parts[2:])
        print(f"  {part:10} {value * 1e3:7.1f} ms  {value / whole:5.1%}")


def profile_start() -> None:
    """Print what the parts of a start take, each in a process of its own."""
    for name, code in STEPS.items():
        seconds = []
        for _ in range(3):
            timed = f"import time; t = time.perf_counter(); {code}; print(time.perf_counter() - t)"
            done = subprocess.run(
                [sys.executable, "-c", timed], check=True, capture_output=True, text=True
            )
            seconds.append(float(done.stdout.splitlines()[-1]))
        print(f"{name}: {median(seconds):.2f} s")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("name", choices=[*WORKLOADS, *synthetic.SYNTHETIC, "start"])
    parser.add_argument("--rounds", type=int, default=12)
    arguments = parser.parse_args()
    if arguments.name == "start":
        profile_start()
    else:
        profile_rounds(arguments.name, arguments.rounds)


if __name__ == "__main__":
    main()
