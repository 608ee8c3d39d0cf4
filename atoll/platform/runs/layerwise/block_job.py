"""Job of layer-wise training: one epoch of one unit, from its own checkpoint."""

from __future__ import annotations

import math
import os
import time
import traceback
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray

from atoll.clients.apps.client_spec import ClientSpec
from atoll.clients.data.files.dataset import Dataset
from atoll.clients.data.partitioning.partition import Partition
from atoll.clients.noprop.block_training.epoch_training import EpochResult, train_epoch
from atoll.clients.noprop.block_training.example_source import Examples
from atoll.clients.noprop.block_training.training_units import (
    TrainingUnit,
    make_unit,
)
from atoll.clients.noprop.networks.design import Design, SharedPart
from atoll.clients.training.learning_rates import learning_rate_at
from atoll.platform.runs.layerwise.block_files import SHARED, UnitFiles, UnitState
from atoll.platform.runs.layerwise.job_messages import counted_messages
from atoll.platform.runs.layerwise.process_memory import forget_peak, peak_memory
from atoll.platform.worker.gpu_memory import is_out_of_memory
from atoll.randomness import derive_seed, seed_everything


@dataclass(frozen=True)
class UnitReport:
    """Report of one epoch of one unit.

    Attributes
    ----------
    name : str
        The unit.
    epoch : int
        From 1.
    status : str
        "ok" or "error".
    reason : str or None
        Why it is an error, in one line.
    loss : float or None
        The mean of what the unit reports.
    examples, steps : int
        Examples that steps were taken on, and steps.
    seconds : float
        How long it took, checkpoint included.
    peak_memory : int
        The most memory that the process has held meanwhile, in bytes.
    messages : int
        Calls by which the job could have reached another worker, while it trained.
    process : int
        The worker's process id.
    """

    name: str
    epoch: int
    status: Literal["ok", "error"] = "ok"
    reason: str | None = None
    loss: float | None = None
    examples: int = 0
    steps: int = 0
    seconds: float = 0.0
    peak_memory: int = 0
    messages: int = 0
    process: int = 0


@lru_cache(maxsize=2)
def open_data(spec: ClientSpec) -> tuple[Dataset, Design, NDArray[np.int64]]:
    """Return the data set, the network's design and the indices of the first client's examples."""
    dataset = Dataset(spec.dataset)
    design = Design.of(spec.model, dataset.inputs, len(dataset.classes))
    return dataset, design, Partition(spec.partition).indices(0)


def shared_epoch_before(design: Design, epoch: int) -> int:
    """Return the epoch of the shared part that blocks begin an epoch with.

    Where blocks train it, they agree on its mean at the end of every epoch; else it stays as it
    was made.
    """
    return epoch - 1 if design.is_shared_part_trained_by_blocks else 0


def train_unit(
    spec: ClientSpec, directory: Path, name: str, epoch: int, keep_from: int
) -> UnitReport:
    """Train a unit up to the end of an epoch; what has been done already is not done again.

    Parameters
    ----------
    spec : ClientSpec
        Data, model and training; small, and the same for all units. It holds no handle of
        another worker.
    directory : Path
        Of the units' checkpoints.
    name : str
        The unit.
    epoch : int
        From 1.
    keep_from : int
        Checkpoints of epochs before this one are no longer needed.

    Returns
    -------
    UnitReport
        Of that epoch. An exception of the training is an error in it, and no state is written;
        only that of a GPU without room is raised, for the pool to run the unit elsewhere.
    """
    files = UnitFiles(directory)
    try:
        state = files.latest(name)
        while state is None or state.epoch < epoch:
            state = _train_one_epoch(spec, files, name, state)
        files.prune(name, keep_from)
        return UnitReport(**state.reports[epoch - 1])
    except Exception as error:
        if is_out_of_memory(error):
            raise
        if not isinstance(error, FloatingPointError):
            # A loss that diverged is no fault of the code, and the reason says it all.
            traceback.print_exc()
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
        return UnitReport(name, epoch, "error", reason, process=os.getpid())


def _train_one_epoch(
    spec: ClientSpec, files: UnitFiles, name: str, state: UnitState | None
) -> UnitState:
    began = time.perf_counter()
    forget_peak()
    dataset, design, indices = open_data(spec)
    epoch = 1 if state is None else state.epoch + 1
    shared = load_shared_part(design, files, shared_epoch_before(design, epoch)).to(spec.device)
    unit = make_unit(name, design, shared, spec.seed)
    unit.module.to(spec.device)
    if state is not None:
        _load_module(unit, state, design)
    with counted_messages() as count:
        result = _train(spec, unit, name, epoch, dataset, indices, state)
    if not math.isfinite(result.loss):
        raise FloatingPointError(f"the loss of epoch {epoch} is {result.loss}")
    report = UnitReport(
        name=name,
        epoch=epoch,
        loss=result.loss,
        examples=result.examples,
        steps=result.steps,
        seconds=time.perf_counter() - began,
        peak_memory=peak_memory(),
        messages=count.messages,
        process=os.getpid(),
    )
    reports = [*([] if state is None else state.reports), asdict(report)]
    after = UnitState(epoch, dict(unit.module.state_dict()), result.optimizer, reports)
    files.write(name, after)
    return after


def _train(
    spec: ClientSpec,
    unit: TrainingUnit,
    name: str,
    epoch: int,
    dataset: Dataset,
    indices: NDArray[np.int64],
    state: UnitState | None,
) -> EpochResult:
    seed = derive_seed(spec.seed, "layer", name, epoch)
    # Dropout draws from the global generator.
    seed_everything(seed)
    optimizer = None if state is None else state.optimizer
    if optimizer is not None:
        optimizer = {key: _moved(value, spec.device) for key, value in optimizer.items()}
    return train_epoch(
        unit,
        Examples(dataset, dataset.train, indices, spec.device),
        spec.client,
        learning_rate=learning_rate_at(spec.client, epoch, spec.num_rounds),
        generator=torch.Generator().manual_seed(seed),
        optimizer=optimizer,
    )


def _moved(value: object, device: str) -> object:
    return [tensor.to(device) for tensor in value] if isinstance(value, list) else value


def _load_module(unit: TrainingUnit, state: UnitState, design: Design) -> None:
    """Load a unit's own tensors; what blocks agree on comes from the shared part's file."""
    own = state.module
    if design.is_shared_part_trained_by_blocks and SHARED in dict(unit.module.named_children()):
        agreed = {k: v for k, v in unit.module.state_dict().items() if k.startswith(f"{SHARED}.")}
        own = own | agreed
    unit.module.load_state_dict(own)


def load_shared_part(design: Design, files: UnitFiles, epoch: int) -> SharedPart:
    """Return the shared part after an epoch; 0 is as it was made.

    Raises
    ------
    CorruptCheckpointError
        If its file cannot be read.
    """
    shared = design.make_shared_part()
    shared.load_state_dict(files.read(SHARED, epoch).module)
    return shared
