"""Evaluation in layer-wise training: in one process, features in parallel, or as a pipeline.

Whichever way it goes, the same functions see the same batches and the same noise, so the numbers
have the same bits.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache, reduce
from operator import add
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from atoll.clients.apps.client_spec import ClientSpec
from atoll.clients.data.files.dataset import Dataset
from atoll.clients.noprop.block_training.training_units import index_of, make_unit
from atoll.clients.noprop.networks.blocks import Block
from atoll.clients.noprop.networks.design import Design, SharedPart
from atoll.clients.noprop.networks.inference import (
    AllWays,
    Inference,
    States,
    Step,
    noise_of_runs,
    plan,
)
from atoll.clients.training.evaluation import BATCH, Evaluation, measure
from atoll.platform.pool.jobs import Job
from atoll.platform.runs.layerwise.block_files import UnitFiles
from atoll.platform.runs.layerwise.block_job import load_shared_part

# Test examples a job.
PART = 2 * BATCH


@dataclass(frozen=True)
class Snapshot:
    """A network at the end of an epoch, as files.

    Attributes
    ----------
    spec : ClientSpec
        What it was trained with.
    directory : Path
        Of the units' checkpoints.
    blocks : tuple[tuple[str, int], ...]
        The blocks that are there, each with the epoch of its file.
    shared : str
        The unit in whose files the shared part is: "shared", or "head".
    shared_epoch : int
        The epoch of that file.
    """

    spec: ClientSpec
    directory: Path
    blocks: tuple[tuple[str, int], ...]
    shared: str
    shared_epoch: int


class Opened:
    """A snapshot in this process: only the blocks that are asked for."""

    def __init__(self, snapshot: Snapshot) -> None:
        spec = snapshot.spec
        self._snapshot = snapshot
        self._files = UnitFiles(snapshot.directory)
        self.dataset = Dataset(spec.dataset)
        self.design = Design.of(spec.model, self.dataset.inputs, len(self.dataset.classes))
        self.shared = self._shared_part().to(spec.device).eval()
        self._blocks: dict[int, Block] = {}

    def _shared_part(self) -> SharedPart:
        snapshot = self._snapshot
        shared = load_shared_part(self.design, self._files, 0)
        if (snapshot.shared, snapshot.shared_epoch) != ("shared", 0):
            state = self._files.read(snapshot.shared, snapshot.shared_epoch).module
            shared.load_state_dict({k.removeprefix("shared."): v for k, v in state.items()})
        elif not self.design.is_shared_part_trained_by_blocks:
            # A head that was never trained reads nothing; the nearest embedding does.
            shared.head = None
        return shared

    def blocks(self, wanted: Sequence[int] | None = None) -> dict[int, Block]:
        """Return blocks by their place, all that are there by default."""
        epochs = {index_of(name): (name, epoch) for name, epoch in self._snapshot.blocks}
        for index in epochs if wanted is None else wanted:
            if index not in self._blocks:
                name, epoch = epochs[index]
                block = self.design.make_block()
                state = self._files.read(name, epoch).module
                own = {k.removeprefix("block."): v for k, v in state.items() if k[:6] == "block."}
                block.load_state_dict(own)
                self._blocks[index] = block.to(self._snapshot.spec.device).eval()
        return {index: self._blocks[index] for index in (epochs if wanted is None else wanted)}

    def images(self, indices: NDArray[np.int64]) -> Tensor:
        """Return inputs of test examples."""
        inputs = self.dataset.inputs.to_tensor(self.dataset.test.inputs[indices])
        return inputs.to(self._snapshot.spec.device)

    def all_ways(self, blocks: dict[int, Block], place: int) -> tuple[Inference, AllWays]:
        """Return inference through ``blocks`` on a batch that begins at ``place``."""
        runs = self.design.settings.mean_of
        noise = noise_of_runs(runs, self._snapshot.spec.seed, place)
        inference = Inference(self.design, self.shared, blocks)
        return inference, AllWays(inference, noise)


# One a process: an evaluation has many jobs, and the next one is of other files.
_opened = lru_cache(maxsize=1)(Opened)


def in_one_process(snapshot: Snapshot, indices: NDArray[np.int64]) -> Evaluation:
    """Evaluate test examples with all blocks at hand."""
    opened = _opened(snapshot)
    done = []
    for chosen in _batches(indices):
        inference, ways = opened.all_ways(opened.blocks(), int(chosen[0]))
        with torch.no_grad():
            outputs = ways.run(inference.features(opened.images(chosen)))
        done.append(_counted(opened, outputs, chosen))
    return reduce(add, done)


def features_of(
    snapshot: Snapshot, block: int, indices: NDArray[np.int64]
) -> list[NDArray[np.float32]]:
    """Return what a block needs of test images, a batch at a time; it needs no other block."""
    opened = _opened(snapshot)
    (own,) = opened.blocks([block]).values()
    with torch.no_grad():
        return [own.features(opened.images(c)).cpu().numpy() for c in _batches(indices)]


def with_features(
    snapshot: Snapshot,
    indices: NDArray[np.int64],
    features: dict[int, list[NDArray[np.float32]]],
) -> Evaluation:
    """Evaluate test examples of which :func:`features_of` each block are there."""
    opened = _opened(snapshot)
    done = []
    for place, chosen in enumerate(_batches(indices)):
        _, ways = opened.all_ways(opened.blocks(), int(chosen[0]))
        own = {i: torch.from_numpy(f[place]).to(snapshot.spec.device) for i, f in features.items()}
        with torch.no_grad():
            outputs = ways.run(own)
        done.append(_counted(opened, outputs, chosen))
    return reduce(add, done)


def stages(snapshot: Snapshot) -> list[list[Step]]:
    """Return the steps of inference, cut where another block takes over."""
    opened = _opened(snapshot)
    available = sorted(index_of(name) for name, _ in snapshot.blocks)
    cut: list[list[Step]] = []
    for step in plan(opened.design, opened.shared, available):
        if cut and cut[-1][0].block == step.block:
            cut[-1].append(step)
        else:
            cut.append([step])
    return cut


def pass_stage(
    snapshot: Snapshot,
    steps: list[Step],
    last: Step,
    indices: NDArray[np.int64],
    states: States | None,
) -> States | Evaluation:
    """Take one block's steps on a batch: what comes in is the latents, and what goes out.

    Parameters
    ----------
    snapshot : Snapshot
        The network; only the block of the steps is loaded.
    steps : list[Step]
        Consecutive steps of one block.
    last : Step
        The last step of all; after it the labels are read and counted.
    indices : NDArray[int64]
        At most a batch of test examples.
    states : States or None
        What the stage before came to; None begins with noise.
    """
    opened = _opened(snapshot)
    blocks = opened.blocks([steps[0].block])
    inference, ways = opened.all_ways(blocks, int(indices[0]))
    inference.plan = [*steps, last]
    with torch.no_grad():
        features = blocks[steps[0].block].features(opened.images(indices))
        states = ways.begin(len(indices)) if states is None else states
        for step in steps:
            states = ways.advance(step, features, states)
        if steps[-1] != last:
            return {name: tensor.cpu() for name, tensor in states.items()}
        return _counted(opened, ways.end(states), indices)


def evaluate_baseline(
    snapshot: Snapshot, parts: tuple[tuple[str, int], ...], indices: NDArray[np.int64]
) -> Evaluation:
    """Evaluate a baseline: one classifier, or the mean of the members' predictions."""
    opened = _opened(snapshot)
    modules = [_baseline(snapshot, name, epoch) for name, epoch in parts]
    done = []
    for chosen in _batches(indices):
        images = opened.images(chosen)
        with torch.no_grad():
            said = [_classify(module, opened, images, int(chosen[0])) for module in modules]
        outputs = {"mean": torch.stack(said).mean(0).log()}
        done.append(_counted(opened, outputs, chosen))
    return reduce(add, done)


def _baseline(snapshot: Snapshot, name: str, epoch: int) -> nn.Module:
    opened = _opened(snapshot)
    part = make_unit(name, opened.design, opened.shared, snapshot.spec.seed)
    part.module.load_state_dict(UnitFiles(snapshot.directory).read(name, epoch).module)
    module = part.module["block"] if isinstance(part.module, nn.ModuleDict) else part.module
    return module.to(snapshot.spec.device).eval()


def _classify(module: nn.Module, opened: Opened, images: Tensor, place: int) -> Tensor:
    if not isinstance(module, Block):
        return module(images).softmax(-1)  # type: ignore[no-any-return]
    # A member knows images with pure noise, as wide as there are classes.
    (noise,) = noise_of_runs(1, 0, place)
    z = noise.draw(0, (len(images), opened.design.classes)).to(images)
    return module(images, z).softmax(-1)  # type: ignore[no-any-return]


def _batches(indices: NDArray[np.int64]) -> list[NDArray[np.int64]]:
    return [indices[start : start + BATCH] for start in range(0, len(indices), BATCH)]


def _counted(opened: Opened, outputs: dict[str, Tensor], chosen: NDArray[np.int64]) -> Evaluation:
    dataset = opened.dataset
    return measure(dataset.task, outputs, torch.from_numpy(dataset.test.labels[chosen]))


Way = Literal["process", "features", "pipeline"]


class SnapshotEvaluation:
    """The jobs of evaluating one snapshot and its baselines, and what comes of them.

    Parameters
    ----------
    snapshot : Snapshot
        The network.
    indices : NDArray[int64]
        The test examples.
    way : "process", "features" or "pipeline"
        How inference goes through the blocks.
    baselines : dict[str, tuple]
        The units of each baseline, with the epochs of their files.
    """

    def __init__(
        self,
        snapshot: Snapshot,
        indices: NDArray[np.int64],
        way: Way,
        baselines: dict[str, tuple[tuple[str, int], ...]],
    ) -> None:
        self._snapshot = snapshot
        size = BATCH if way == "pipeline" else PART
        self._parts = [indices[start : start + size] for start in range(0, len(indices), size)]
        self._stages = stages(snapshot) if way == "pipeline" else []
        self._features: dict[int, dict[int, list[NDArray[np.float32]]]] = {}
        self._done: dict[str, dict[int, Evaluation]] = {"": {}, **{b: {} for b in baselines}}
        self.jobs: list[Job] = []
        for place, part in enumerate(self._parts):
            self.jobs += self._first_jobs(way, place, part)
            for name, members in baselines.items():
                call = (evaluate_baseline, snapshot, members, part)
                self.jobs.append(Job("call", call, payload=(self, name, place, None)))

    def _first_jobs(self, way: Way, place: int, part: NDArray[np.int64]) -> list[Job]:
        snapshot = self._snapshot
        if way == "process":
            call: tuple[Any, ...] = (in_one_process, snapshot, part)
            return [Job("call", call, payload=(self, "", place, None))]
        if way == "pipeline":
            return [self._stage_job(place, 0, None)]
        self._features[place] = {}
        return [
            Job("call", (features_of, snapshot, index, part), payload=(self, "", place, index))
            for index in sorted(index_of(name) for name, _ in snapshot.blocks)
        ]

    def _stage_job(self, place: int, stage: int, states: States | None) -> Job:
        steps, last, part = self._stages[stage], self._stages[-1][-1], self._parts[place]
        call = (pass_stage, self._snapshot, steps, last, part, states)
        return Job("call", call, payload=(self, "", place, stage))

    def take(self, payload: tuple[Any, ...], result: Any) -> list[Job]:
        """Take a job's result; return the jobs that can start now."""
        _, name, place, stage = payload
        if isinstance(result, Evaluation):
            self._done[name][place] = result
            return []
        if self._stages:
            return [self._stage_job(place, stage + 1, result)]
        gathered = self._features[place]
        gathered[stage] = result
        if len(gathered) < len(self._snapshot.blocks):
            return []
        call = (with_features, self._snapshot, self._parts[place], self._features.pop(place))
        return [Job("call", call, payload=(self, "", place, None))]

    @property
    def finished(self) -> bool:
        """Whether every test example has been evaluated."""
        return all(len(done) == len(self._parts) for done in self._done.values())

    def metrics(self) -> dict[str, Any]:
        """Return the metrics: the network's, and ``NAME_accuracy`` of each baseline."""
        total = {
            name: reduce(add, [done[place] for place in range(len(self._parts))])
            for name, done in self._done.items()
        }
        own = total.pop("")
        baselines = {name: evaluation.task_metrics() for name, evaluation in total.items()}
        return {
            **own.metrics(),
            **{f"{name}_accuracy": found["accuracy"] for name, found in baselines.items()},
        }
