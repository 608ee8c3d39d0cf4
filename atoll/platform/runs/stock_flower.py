"""Our ServerApp and ClientApp for stock Flower: ``flwr run`` on this repository.

The run config names an experiment file and overrides; data, model, strategy and clients are those
that ``atoll run`` would make, so the same nodes come to the same final arrays.
"""

from __future__ import annotations

import logging
import time
from functools import lru_cache
from pathlib import Path

import torch
from flwr.app import ArrayRecord, Context, Message, MetricRecord
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp

from atoll.clients.apps.client_app import make_client_app
from atoll.clients.apps.noprop_clients import CAPACITY
from atoll.clients.data.partitioning.domains import test_sets
from atoll.clients.moments.moment_messages import MOMENTS
from atoll.clients.training.evaluation import evaluate, metrics_by_domain
from atoll.errors import InvalidExperimentError
from atoll.platform.config.experiment import Experiment, load_experiment
from atoll.platform.run_directory.checkpoint import Checkpoint, CheckpointStore, parameters_sha256
from atoll.platform.runs.federation import Federation, prepare
from atoll.platform.runs.natural_clients import with_natural_clients
from atoll.randomness import derive_seed, seed_everything

logger = logging.getLogger("flwr")
ROOT = Path(__file__).resolve().parents[3]
POLL_SECONDS = 0.2

server_app = ServerApp()
client_app = ClientApp()


@lru_cache(maxsize=4)
def _federation(file: str, overrides: str, clients: int | None) -> tuple[Experiment, Federation]:
    path = Path(file)
    settings = overrides.split()
    if clients is not None:
        settings.append(f"data.clients={clients}")
    loaded = load_experiment(path if path.is_absolute() else ROOT / path, settings)
    experiment = with_natural_clients(loaded)
    if experiment.unlearn is not None:
        raise InvalidExperimentError(
            f"{file}: has a section [unlearn], whose clients stock Flower would draw; expected "
            "'atoll run', or a file without"
        )
    return experiment, prepare(experiment)


@lru_cache(maxsize=4)
def _client_app(file: str, overrides: str, clients: int) -> ClientApp:

    experiment, federation = _federation(file, overrides, clients)
    # Which process has a GPU is for Flower to say.
    has_gpu = experiment.ray.gpus_per_worker != 0 and torch.cuda.is_available()
    return make_client_app(federation.on("cuda" if has_gpu else "cpu").spec)


def _answer(message: Message, context: Context) -> Message:
    config = context.run_config
    clients = int(context.node_config["num-partitions"])
    app = _client_app(str(config["experiment"]), str(config["overrides"]), clients)
    return app(message, context)


client_app.train()(_answer)
client_app.evaluate()(_answer)
client_app.query(MOMENTS)(_answer)
client_app.query(CAPACITY)(_answer)


@server_app.main()
def main(grid: Grid, context: Context) -> None:
    """Run the experiment's strategy with Flower's own loop."""
    config = context.run_config
    experiment, federation = _federation(str(config["experiment"]), str(config["overrides"]), None)
    while len(list(grid.get_node_ids())) < experiment.data.clients:
        time.sleep(POLL_SECONDS)
    seed_everything(derive_seed(experiment.run.seed, "server"))
    result = federation.strategy.start(
        grid=grid,
        initial_arrays=federation.initial_arrays,
        num_rounds=experiment.run.rounds,
        timeout=experiment.run.round_timeout or 3600,
        evaluate_fn=_Evaluation(experiment, federation),
    )
    logger.info("parameters sha256 %s", parameters_sha256(result.arrays))
    if config["out"]:
        store = CheckpointStore(Path(str(config["out"])) / "checkpoints")
        store.write(Checkpoint(experiment.run.rounds, result.arrays))


class _Evaluation:
    """Evaluates in the ServerApp's own process: stock Flower has no workers for it."""

    def __init__(self, experiment: Experiment, federation: Federation) -> None:
        dataset = federation.dataset
        self._dataset = dataset
        self._model = federation.spec.build_model(dataset)
        self._arrays = federation.spec.arrays_of(self._model)
        self._metrics = experiment.run.metrics or ()
        data = experiment.data
        self._sets = test_sets(dataset, data.held_out, data.test_examples)

    def __call__(self, server_round: int, arrays: ArrayRecord) -> MetricRecord:
        self._arrays.load(arrays)
        dataset = self._dataset
        done = [
            evaluate(self._model, dataset, dataset.test, own, metrics=self._metrics)
            for own in self._sets.indices
        ]
        return MetricRecord(metrics_by_domain(self._sets, done))
