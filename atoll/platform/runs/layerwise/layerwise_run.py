"""Layer-wise training, from experiment to result: files, workers, ledger, progress, report."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch
from flwr.app import ArrayRecord
from flwr.clientapp import ClientApp
from numpy.typing import NDArray

from atoll.clients.data.images.image_tensors import to_tensor
from atoll.clients.data.partitioning.domains import test_sets
from atoll.clients.noprop.block_training.training_units import (
    HEAD,
    baseline_names,
    block_names,
    make_shared_part,
    unit_names,
)
from atoll.clients.noprop.layer_keys import shared_prefix
from atoll.clients.noprop.networks.design import Design, SharedPart
from atoll.clients.noprop.networks.embeddings import prototypes
from atoll.flower.arrays import array_record, to_array
from atoll.platform.callbacks.early_stopping import EarlyStopping
from atoll.platform.callbacks.observers import RoundRecord, RunInfo
from atoll.platform.cluster.connection import Cluster
from atoll.platform.cluster.worker_allocation import WorkerAllocator
from atoll.platform.config.experiment import Experiment
from atoll.platform.config.sections import LayersSettings, RaySettings
from atoll.platform.pool.gpu_sharing import GpuSharing
from atoll.platform.pool.jobs import JobSource
from atoll.platform.pool.pool_start import start_pool
from atoll.platform.pool.worker_pool import WorkerPool
from atoll.platform.rounds.round_boundaries import (
    announce,
    end_round,
    first_round,
    is_evaluated,
)
from atoll.platform.run_directory.checkpoint import Checkpoint
from atoll.platform.runs.layerwise.block_files import SHARED, UnitFiles, UnitState
from atoll.platform.runs.layerwise.block_job import UnitReport
from atoll.platform.runs.layerwise.block_schedule import UnitSchedule
from atoll.platform.runs.layerwise.layer_ledger import UnitTable
from atoll.platform.runs.layerwise.network_arrays import (
    UNITS_FOLDER,
    network_arrays,
    write_manifest,
)
from atoll.platform.runs.layerwise.network_evaluation import Snapshot, SnapshotEvaluation
from atoll.platform.runs.session import Session
from atoll.platform.worker.worker_setup import make_with_main
from atoll.user_code.main_module import MainCode

if TYPE_CHECKING:
    from atoll.platform.runs.federation import Federation


class Pool(Protocol):
    """Runs jobs: the workers of a cluster, or this process.

    Attributes
    ----------
    sharing : GpuSharing
        How workers share GPUs.
    """

    sharing: GpuSharing

    @property
    def size(self) -> int:
        """How many jobs it runs at a time."""

    def run(self, source: JobSource) -> None:
        """Run the jobs of a source until it is finished."""


class LayerwiseTraining:
    """The driver of layer-wise training.

    Parameters
    ----------
    experiment : Experiment
        With ``[layers]``.
    federation : Federation
        Its data and its spec; of one client.
    session : Session
        The run's directory and observers.
    callbacks : Sequence
        Called with every epoch's record.
    """

    def __init__(
        self,
        experiment: Experiment,
        federation: Federation,
        session: Session,
        callbacks: Sequence[Callable[[RoundRecord], None]] = (),
    ) -> None:
        assert experiment.layers is not None
        self._experiment = experiment
        self._layers: LayersSettings = experiment.layers
        self._dataset, self._spec = federation.dataset, federation.spec
        self._trained_on = federation.partition.indices(0)
        self._session = session
        self._design = Design.of(experiment.model, self._dataset.inputs, len(self._dataset.classes))
        self._files = UnitFiles(session.directory / UNITS_FOLDER)
        self._table = UnitTable(session.directory)
        self._blocks = block_names(self._design)
        self._baselines: dict[str, list[str]] = {
            name: baseline_names(name, self._design) for name in self._layers.baselines
        }
        sets = test_sets(self._dataset, experiment.data.held_out, experiment.data.test_examples)
        self._test: NDArray[np.int64] = np.sort(np.concatenate(sets.indices))
        stopping = experiment.run.early_stopping
        self._options = session.options(
            name=experiment.run.name,
            evaluate_every=experiment.run.evaluate_every,
            callbacks=callbacks,
            stopping=None if stopping is None else EarlyStopping(stopping),
        )
        self._reports: dict[int, list[UnitReport]] = {}
        self._began = time.perf_counter()

    def run(self, pool: Pool) -> ArrayRecord:
        """Train every unit to the last epoch; return the network's arrays.

        Parameters
        ----------
        pool : Pool
            Runs the jobs.

        Raises
        ------
        EngineError
            If every block fails.
        """
        first_epoch = self._begin()
        units = unit_names(self._design)
        others = [name for name in units if name not in self._blocks]
        self._schedule = UnitSchedule(
            self._spec,
            self._files.directory,
            self._blocks,
            [*others, *(name for names in self._baselines.values() for name in names)],
            first_epoch,
            self._experiment.run.rounds,
            in_step=self._design.is_shared_part_trained_by_blocks,
            on_report=self._on_report,
            on_epoch=self._on_epoch,
            on_evaluated=self._on_evaluated,
            failed=self._table.failed,
        )
        self._announce(first_epoch, pool.size)
        self._sharing = pool.sharing
        try:
            pool.run(self._schedule)
        finally:
            self._table.flush()
        write_manifest(self._session.directory)
        return network_arrays(self._session.directory)

    @property
    def units(self) -> int:
        """Number of units, which can be trained in parallel."""
        baselines = sum(len(names) for names in self._baselines.values())
        return len(unit_names(self._design)) + baselines

    def facts(self) -> dict[str, Any]:
        """Return what ``result.json`` says of the layers beside the metrics."""
        return {
            "failed_layers": self._schedule.failed,
            "restarts": {name: n for name, n in self._schedule.restarts.items() if n},
            "messages_between_layers": self._table.messages,
        }

    # --- before the first epoch -----------------------------------------------------------------

    def _begin(self) -> int:
        """Make the shared part of a new run; return the first epoch that is not recorded."""
        checkpoint = self._session.checkpoints.latest()
        if checkpoint is not None and self._options.stopping is not None:
            self._options.stopping.load_state_dict(checkpoint.tree["stopping"])
        self._table.reopen(0 if checkpoint is None else checkpoint.server_round)
        if not self._files.path(SHARED, 0).exists():
            shared = make_shared_part(self._design, self._spec.seed)
            if self._design.settings.embedding == "prototype":
                shared.set_embedding(self._prototypes())
            self._files.write(SHARED, UnitState(0, dict(shared.state_dict())))
        return first_round(checkpoint, self._experiment.run.rounds)

    def _prototypes(self) -> torch.Tensor:
        dataset, chosen = self._dataset, self._trained_on
        images = to_tensor(dataset.train.images[chosen], dataset.mean, dataset.std)
        return prototypes(images, dataset.train.labels[chosen], len(dataset.classes))

    def _announce(self, first_epoch: int, workers: int) -> None:
        network = self._design
        per_block = sum(p.numel() for p in network.make_block().parameters())
        barrier = (
            "blocks agree on what they share at every epoch's end"
            if network.is_shared_part_trained_by_blocks
            else "no block waits for another"
        )
        announce(
            self._options,
            RunInfo(
                name=self._experiment.run.name,
                directory=self._session.directory,
                num_rounds=self._experiment.run.rounds,
                first_round=first_epoch,
                workers=workers,
                clients=network.blocks,
                parameters=network.blocks * per_block,
                strategy=self._experiment.model.name,
                members="layers",
                notes=[
                    f"training: {barrier}",
                    "accuracy: inference without noise; stochastic: with noise, as in the paper; "
                    f"mean of runs: of {network.settings.mean_of} with noise",
                    f"baselines: {', '.join(self._baselines) or '-'}",
                ],
            ),
        )

    # --- what the schedule tells ----------------------------------------------------------------

    def _on_report(self, report: UnitReport) -> None:
        self._reports.setdefault(report.epoch, []).append(report)
        self._table.add(report)
        self._session.unit_ended(report.name, report.epoch, self._experiment.run.rounds)

    def _on_epoch(self, epoch: int) -> SnapshotEvaluation | None:
        if self._design.is_shared_part_trained_by_blocks:
            self._agree(epoch)
        if not is_evaluated(self._options, epoch, self._experiment.run.rounds):
            return None
        alive = self._schedule.is_alive
        baselines = {
            name: tuple((unit, epoch) for unit in units)
            for name, units in self._baselines.items()
            if all(alive(unit) for unit in units)
        }
        return SnapshotEvaluation(
            self._snapshot(epoch), self._test, self._layers.inference, baselines
        )

    def _snapshot(self, epoch: int) -> Snapshot:
        """Return the network at an epoch's end, without the blocks that have failed."""
        alive = self._schedule.is_alive
        blocks = tuple((name, epoch) for name in self._blocks if alive(name))
        shared, shared_epoch = SHARED, 0
        if self._design.is_shared_part_trained_by_blocks:
            shared_epoch = epoch
        elif HEAD in unit_names(self._design) and alive(HEAD):
            shared, shared_epoch = HEAD, epoch
        return Snapshot(self._spec, self._files.directory, blocks, shared, shared_epoch)

    def _agree(self, epoch: int) -> None:
        """Make the shared part of an epoch's end: the mean of the blocks' copies."""
        if self._files.path(SHARED, epoch).exists():
            return
        copies = []
        for name in filter(self._schedule.is_alive, self._blocks):
            module = self._files.read(name, epoch).module
            prefix = f"{SHARED}."
            copies.append({k[len(prefix) :]: v for k, v in module.items() if k.startswith(prefix)})
        mean = {
            key: torch.stack([copy[key].double() for copy in copies]).mean(0).to(value.dtype)
            for key, value in copies[0].items()
        }
        self._files.write(SHARED, UnitState(epoch, mean))

    def _on_evaluated(self, epoch: int, metrics: dict[str, Any] | None) -> bool:
        reports = self._reports.pop(epoch, [])
        # In the blocks' order, whichever came first: the mean's last bit depends on it.
        own = sorted(
            (r for r in reports if r.name in self._blocks and r.loss is not None),
            key=lambda report: report.name,
        )
        now = time.perf_counter()
        record = RoundRecord(
            server_round=epoch,
            num_rounds=self._experiment.run.rounds,
            seconds=now - self._began,
            cohort=len(self._blocks),
            replies=len(own),
            errors=sum(r.status == "error" for r in reports),
            examples=sum(r.examples for r in own),
            train_metrics={"loss": float(np.mean([r.loss for r in own]))} if own else {},
            server_metrics={} if metrics is None else self._with_distance(epoch, metrics),
            gpus=self._sharing.facts(),
        )
        self._began = now
        save = partial(self._save, epoch)
        return end_round(record, self._options, capture=self._state, save=save)

    def _with_distance(self, epoch: int, metrics: dict[str, Any]) -> dict[str, Any]:
        """Add how far the nearest two classes' embeddings are apart, where they are trained."""
        if not self._design.settings.embedding_is_trained:
            return metrics
        return {**metrics, "embedding_distance": self._shared_at(epoch).least_distance()}

    def _shared_at(self, epoch: int) -> SharedPart:
        snapshot = self._snapshot(epoch)
        state = self._files.read(snapshot.shared, snapshot.shared_epoch).module
        shared = self._design.make_shared_part()
        shared.load_state_dict({k.removeprefix(shared_prefix()): v for k, v in state.items()})
        return shared

    def _state(self, stopped: str | None) -> dict[str, Any]:
        stopping = self._options.stopping
        return {
            "stopping": None if stopping is None else stopping.state_dict(),
            "stopped": stopped,
            "failed": self._schedule.failed,
        }

    def _save(self, epoch: int, tree: dict[str, Any], is_last: bool) -> None:
        """Write the driver's own checkpoint: that the epoch is recorded."""
        self._table.flush()
        self._options.before_checkpoint()
        shared = self._shared_at(epoch).state_dict()
        arrays = {shared_prefix() + k: to_array(v.numpy()) for k, v in shared.items()}
        self._session.checkpoints.write(Checkpoint(epoch, array_record(arrays), tree))


def start_workers(
    cluster: Cluster, settings: RaySettings, federation: Federation, units: int, main: MainCode
) -> WorkerPool:
    """Return the workers of layer-wise training; the federation's data are brought to their nodes.

    ``units`` is how many can be trained in parallel; ``main`` is the user's own code.
    """
    allocator = WorkerAllocator.of(cluster, settings)
    allocator.could_use = units
    # A worker is started with an app; here jobs are calls, and there are no clients.
    data = (federation.spec.dataset, federation.spec.partition)
    app = partial(make_with_main, main, ClientApp)
    return start_pool(app, allocator, threads=settings.threads_per_worker, data=data)
