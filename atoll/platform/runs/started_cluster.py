"""Ray, on its way up while a run's data and model are made ready."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

from atoll.clients.apps.client_app import make_client_app
from atoll.platform.cluster.connection import Cluster
from atoll.platform.cluster.worker_allocation import WorkerAllocator
from atoll.platform.config.experiment import Experiment
from atoll.platform.config.unlearning.problems import absent_nodes
from atoll.platform.grid.ray_grid import RayGrid
from atoll.platform.runs.federation import Federation
from atoll.platform.worker.worker_setup import make_with_main
from atoll.user_code.main_module import MainCode
from atoll.user_code.trust import references_in


def main_code_of(experiment: Experiment) -> MainCode:
    """Return what workers need of the code that the user's script or notebook defines."""
    return MainCode.of(references_in(experiment.to_dict()))


class StartedCluster:
    """Ray starts while data and model are made ready: both take seconds."""

    def __init__(self, experiment: Experiment) -> None:
        self._experiment = experiment

    def __enter__(self) -> StartedCluster:
        self._executor = ThreadPoolExecutor(1)
        self._cluster = self._executor.submit(self._connect)
        return self

    def _connect(self) -> Any:
        return Cluster(self._experiment.ray.address)

    @property
    def connection(self) -> Cluster:
        """The connection, once Ray has started."""
        connected: Cluster = self._cluster.result()
        return connected

    @property
    def device(self) -> str:
        """Device of the workers' models: "cuda" if they have a share of a GPU, else "cpu"."""
        settings = self._experiment.ray
        gpus = settings.gpus_per_worker
        if gpus == "auto":
            # Nodes that are still to come may have GPUs.
            gpus = WorkerAllocator.of(self.connection, settings).wait().gpus
        return "cuda" if gpus > 0 else "cpu"

    def grid(self, federation: Federation, name: str) -> RayGrid:
        """Return the grid, on the cluster that was started; ``name`` is for Ray's dashboard."""
        experiment = self._experiment
        ray_settings = experiment.ray
        make_app = partial(make_client_app, federation.spec)
        return RayGrid(
            partial(make_with_main, main_code_of(experiment), make_app),
            experiment.data.clients,
            seed=experiment.run.seed,
            workers=ray_settings.workers,
            cpus_per_worker=ray_settings.cpus_per_worker,
            gpus_per_worker=ray_settings.gpus_per_worker,
            threads_per_worker=ray_settings.threads_per_worker,
            chunk_size=ray_settings.chunk_size,
            sizes=federation.partition.sizes,
            client_timeout=experiment.client.timeout,
            check_replies=experiment.strategy.check_replies,
            vectorize=experiment.client.vectorize,
            nodes_timeout=ray_settings.nodes_timeout,
            label_selector=ray_settings.label_selector,
            data=(federation.spec.dataset, federation.spec.partition),
            name=name,
            absent=absent_nodes(experiment),
            cluster=self.connection,
        )

    def __exit__(self, *exception: object) -> None:
        if self._cluster.exception() is None:
            self._cluster.result().close()
        # Only now: Ray's processes are killed when the thread that started them ends.
        self._executor.shutdown()
