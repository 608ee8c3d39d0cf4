"""A layer run from its experiment to its result: files, workers, ledger, progress, report."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch
from flwr.app import ArrayRecord
from flwr.clientapp import ClientApp
from numpy.typing import NDArray

from atoll.clients.data.image_tensors import to_tensor
from atoll.clients.data.partitioning.domains import test_sets
from atoll.clients.noprop.block_training.training_units import (
    HEAD,
    baseline_names,
    block_names,
    index_of,
    make_shared_part,
    unit_names,
)
from atoll.clients.noprop.layer_keys import block_prefix, shared_prefix
from atoll.clients.noprop.networks.design import Design, SharedPart
from atoll.clients.noprop.networks.embeddings import prototypes
from atoll.files.atomic import write_json
from atoll.flower.arrays import array_record, to_array
from atoll.platform.callbacks.early_stopping import EarlyStopping
from atoll.platform.callbacks.observers import RoundRecord, RunInfo
from atoll.platform.cluster.connection import Cluster
from atoll.platform.cluster.worker_allocation import Room
from atoll.platform.config.experiment import Experiment
from atoll.platform.config.sections import LayersSettings, RaySettings
from atoll.platform.pool.gpu_sharing import GpuSharing
from atoll.platform.pool.jobs import JobSource
from atoll.platform.pool.pool_start import start_pool
from atoll.platform.pool.worker_pool import WorkerPool
from atoll.platform.run_directory.checkpoint import Checkpoint, CheckpointStore
from atoll.platform.run_directory.interrupts import interrupts_held
from atoll.platform.runs.layerwise.block_files import SHARED, PartFiles, PartState
from atoll.platform.runs.layerwise.block_job import PartReport
from atoll.platform.runs.layerwise.block_schedule import LayerSchedule
from atoll.platform.runs.layerwise.layer_ledger import LayerTable
from atoll.platform.runs.layerwise.network_evaluation import Snapshot, SnapshotEvaluation
from atoll.platform.runs.session import Session

if TYPE_CHECKING:
    from atoll.platform.runs.federation import Federation

PARTS = "layers"


class Pool(Protocol):
    """Runs jobs: the workers of a cluster, or this process.

    Attributes
    ----------
    size : int
        How many jobs it runs at a time.
    sharing : GpuSharing
        How workers share GPUs.
    """

    size: int
    sharing: GpuSharing

    def run(self, source: JobSource) -> None:
        """Run the jobs of a source until it is finished."""


class LayerRun:
    """The driver of a layer run.

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
        self._callbacks = callbacks
        self._design = Design.of(
            experiment.model, self._dataset.image_shape, len(self._dataset.classes)
        )
        self._files = PartFiles(session.directory / PARTS)
        self._table = LayerTable(session.directory)
        self._blocks = block_names(self._design)
        self._baselines: dict[str, list[str]] = {
            name: baseline_names(name, self._design) for name in self._layers.baselines
        }
        sets = test_sets(self._dataset, experiment.data.held_out, experiment.data.test_examples)
        self._test: NDArray[np.int64] = np.sort(np.concatenate(sets.indices))
        stopping = experiment.run.early_stopping
        self._stopping = None if stopping is None else EarlyStopping(stopping)
        self._reports: dict[int, list[PartReport]] = {}
        self._began = time.perf_counter()

    def run(self, pool: Pool) -> ArrayRecord:
        """Train every part to the last epoch; return the network's arrays.

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
        parts = unit_names(self._design)
        others = [name for name in parts if name not in self._blocks]
        self._schedule = LayerSchedule(
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
    def parts(self) -> int:
        """Number of parts, which can be trained at once."""
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
        recorded = 0 if checkpoint is None else checkpoint.server_round
        if checkpoint is not None and self._stopping is not None:
            self._stopping.load_state_dict(checkpoint.tree["stopping"])
        is_stopped = checkpoint is not None and checkpoint.tree.get("stopped") is not None
        self._table.reopen(recorded)
        if not self._files.path(SHARED, 0).exists():
            shared = make_shared_part(self._design, self._spec.seed)
            if self._design.settings.embedding == "prototype":
                shared.set_embedding(self._prototypes())
            self._files.write(SHARED, PartState(0, dict(shared.state_dict())))
        return self._experiment.run.rounds + 1 if is_stopped else recorded + 1

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
        self._session.start(
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
            )
        )

    # --- what the schedule tells ----------------------------------------------------------------

    def _on_report(self, report: PartReport) -> None:
        self._reports.setdefault(report.epoch, []).append(report)
        self._table.add(report)
        self._session.part_ended(report.name, report.epoch, self._experiment.run.rounds)

    def _on_epoch(self, epoch: int) -> SnapshotEvaluation | None:
        if self._design.is_shared_part_trained_by_blocks:
            self._agree(epoch)
        run = self._experiment.run
        if epoch % run.evaluate_every and epoch != run.rounds:
            return None
        alive = self._schedule.is_alive
        baselines = {
            name: tuple((part, epoch) for part in parts)
            for name, parts in self._baselines.items()
            if all(alive(part) for part in parts)
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
        self._files.write(SHARED, PartState(epoch, mean))

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
        reason = None if self._stopping is None else self._stopping.should_stop(record)
        with interrupts_held():
            self._session.record(record)
            self._table.flush()
            self._session.ledger.flush()
            self._keep(epoch, reason)
        for callback in self._callbacks:
            callback(record)
        return reason is not None

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

    def _keep(self, epoch: int, stopped: str | None) -> None:
        """Write the driver's own checkpoint: that the epoch is recorded."""
        stopping = None if self._stopping is None else self._stopping.state_dict()
        shared = self._shared_at(epoch).state_dict()
        arrays = {shared_prefix() + k: to_array(v.numpy()) for k, v in shared.items()}
        tree = {"stopping": stopping, "stopped": stopped, "failed": self._schedule.failed}
        self._session.checkpoints.write(Checkpoint(epoch, array_record(arrays), tree))


def network_arrays(directory: Path) -> ArrayRecord:
    """Return the arrays of a layer run's network, under a network's keys.

    Blocks that failed are not among them. The blocks are those of the last epoch recorded.

    Parameters
    ----------
    directory : Path
        The run directory.

    Raises
    ------
    CorruptCheckpointError
        If a file cannot be read.

    Examples
    --------
    >>> from pathlib import Path
    >>> from atoll import network_arrays
    >>> arrays = network_arrays(Path("runs/noprop-mnist"))  # doctest: +SKIP
    >>> sorted({key.split(".")[0] for key in arrays})  # doctest: +SKIP
    ['blocks', 'shared']
    """
    checkpoint = CheckpointStore(directory / "checkpoints").latest()
    if checkpoint is None:
        return ArrayRecord()
    files, failed = PartFiles(directory / PARTS), checkpoint.tree["failed"]
    arrays = dict(checkpoint.arrays)
    names = sorted(path.name for path in files.directory.glob("block-*"))
    for name in (name for name in names if name not in failed):
        module = files.read(name, checkpoint.server_round).module
        own = {k.removeprefix("block."): v for k, v in module.items() if k.startswith("block.")}
        prefix = block_prefix(index_of(name))
        arrays |= {prefix + key: to_array(value.numpy()) for key, value in own.items()}
    return array_record(arrays)


def write_manifest(directory: Path) -> Path:
    """Write which files a layer run's parts are in, with their hashes.

    Parts that failed are not among them. The files are those of the last epoch recorded, or of
    the shared part where it stays as it was made: parts can be ahead where a run stops early.
    """
    files, found = PartFiles(directory / PARTS), {}
    checkpoint = CheckpointStore(directory / "checkpoints").latest()
    recorded = 0 if checkpoint is None else checkpoint.server_round
    failed = {} if checkpoint is None else checkpoint.tree["failed"]
    for folder in sorted(path for path in files.directory.iterdir() if path.is_dir()):
        epochs = [epoch for epoch in files.epochs(folder.name) if epoch <= recorded]
        if folder.name in failed or not epochs:
            continue
        path = files.path(folder.name, epochs[-1])
        found[folder.name] = {
            "epoch": epochs[-1],
            "file": str(path.relative_to(directory)),
            "sha256": files.sha256(folder.name, epochs[-1]),
        }
    target = directory / PARTS / "manifest.json"
    write_json(target, found)
    return target


def start_workers(
    cluster: Cluster, settings: RaySettings, federation: Federation, parts: int
) -> WorkerPool:
    """Return the workers of a layer run; the federation's data are brought to their nodes.

    ``parts`` is how many can be trained at once. Nodes that were asked for are let go when the
    cluster is closed.
    """
    room = Room.of(cluster, settings)
    room.could_use = parts
    # A worker is started with an app; a layer run's jobs are calls, and there are no clients.
    data = (federation.spec.dataset, federation.spec.partition)
    return start_pool(ClientApp, room, threads=settings.threads_per_worker, data=data)
