"""Shadow federations of a run: planned, run by workers, kept on disk, and read back."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from flwr.serverapp.strategy import FedAvg
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load, save_file

from atoll import flower
from atoll.attacks.membership.shadow_design import Indices, ShadowDesign, Target
from atoll.clients.data.files.dataset import TOKENIZER, Dataset, Decoded, Split, write_dataset
from atoll.clients.tasks.classification import Classification
from atoll.errors import AttackError, EngineError, RunDirectoryError
from atoll.files.atomic import appearing, replacing
from atoll.files.digests import sha256_of_json
from atoll.files.reading import read_bytes
from atoll.platform.attack_runs.shadows.alone import run_alone
from atoll.platform.attack_runs.shadows.shadow_plan import Losses, ShadowPlan
from atoll.platform.attack_runs.shadows.together import (
    AT_ONCE,
    obstacle_to_stacking,
    run_together,
)
from atoll.platform.cluster.capacity import WorkerRequest
from atoll.platform.cluster.connection import Cluster
from atoll.platform.cluster.worker_allocation import WorkerAllocator
from atoll.platform.config.experiment import Experiment
from atoll.platform.config.strategy_wrappers import nested_strategies
from atoll.platform.pool.mapping import map_over_cluster
from atoll.platform.run_directory.identity import relevant
from atoll.platform.run_directory.interrupts import terminated_as_interrupt
from atoll.platform.runs.federation import Federation, prepare
from atoll.randomness import derive_seed
from atoll.strategies.asynchronous.asynchronous_strategy import AsynchronousStrategy

logger = logging.getLogger("atoll")

# Bump to forget shadow federations of older code.
FORMAT = 1
FOLDER, DATASET = "shadows", "dataset"
# Examples of no federation, which RMIA compares candidates with; at most a quarter of the pool.
POPULATION = 500
MAX_BYTES = 1 << 30

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Asked:
    """A client of which membership is asked.

    Attributes
    ----------
    node_id : int
        The client.
    rounds : tuple[int, ...]
        Rounds whose updates were captured.
    members, others : NDArray[int64]
        Shape (n,): members by their places in the training split, others in the test split.
    """

    node_id: int
    rounds: tuple[int, ...]
    members: Indices
    others: Indices


@dataclass(frozen=True)
class ShadowLosses:
    """Losses of a client's candidates under its models in the shadow federations.

    Attributes
    ----------
    candidates : NDArray[float64]
        Shape (shadows, rounds, 2 n): members, then others.
    population : NDArray[float64]
        Shape (shadows, rounds, m): examples that no federation has.
    included : NDArray[bool]
        Shape (shadows, 2 n): who had which candidate.
    """

    candidates: NDArray[np.float64]
    population: NDArray[np.float64]
    included: NDArray[np.bool_]


class ShadowRuns:
    """Shadow federations of a run, which are kept below the run directory.

    Parameters
    ----------
    run_directory : Path
        The victim's.
    experiment : Experiment
        Its experiment.
    asked : Sequence[Asked]
        Whose models are asked about what.
    seed : int
        What the shadow federations derive from.

    Attributes
    ----------
    directory : Path
        ``RUN_DIR/attacks/shadows/KEY``; the key is a hash of all that they depend on.
    obstacle : str or None
        Why they are run one at a time; None if several are trained as one stack.
    plan : ShadowPlan
        What they have in common.

    Raises
    ------
    AtollError
        If the experiment has no shadow federations, or too few examples are left for them.
    """

    def __init__(
        self, run_directory: Path, experiment: Experiment, asked: Sequence[Asked], seed: int
    ) -> None:
        federation = prepare(experiment)
        _check(experiment, federation)
        self._asked = {each.node_id: each for each in asked}
        self._experiment = experiment
        self.obstacle = obstacle_to_stacking(experiment, federation)
        key = _key(experiment, federation, asked, seed)
        self.directory = run_directory / "attacks" / FOLDER / key
        self.plan = self._planned(federation, seed)
        self._dataset = federation.dataset

    @property
    def population(self) -> Indices:
        """Places of the population: of the training split, then of the test split."""
        return self.plan.population

    def run(self, shadows: int, progress: Progress) -> None:
        """Run the shadow federations that are not on disk yet.

        They are run in groups; a group is always run as a whole, so that one has the same bits
        whatever the number of workers and of federations.

        Parameters
        ----------
        shadows : int
            How many there are to be, at least 4, even.
        progress : callable
            Told how many of how many are there.

        Raises
        ------
        EngineError
            If one of them fails.
        """
        size = AT_ONCE if self.plan.together else 1
        groups = [tuple(range(start, start + size)) for start in range(0, shadows, size)]
        missing = [group for group in groups if not all(map(self._is_there, group))]
        done = len(groups) - len(missing)
        progress(done * size, len(groups) * size)
        if not missing:
            return
        self.write_dataset_of_all()
        with terminated_as_interrupt():
            for place, result in self._mapped(missing):
                if isinstance(result, BaseException):
                    first = missing[place][0]
                    raise EngineError(f"shadow federation {first}: {result}") from result
                for shadow, losses in zip(missing[place], result, strict=True):
                    self._write(shadow, losses)
                done += 1
                progress(done * size, len(groups) * size)

    def _mapped(self, groups: Sequence[tuple[int, ...]]) -> Iterator[tuple[int, Any]]:
        settings = self._experiment.ray
        cluster = Cluster(settings.address)
        try:
            labels = settings.label_selector or {}
            request = WorkerRequest(settings.workers, settings.cpus_per_worker, 0.0, labels)
            allocator = WorkerAllocator(cluster, request, settings.nodes_timeout)
            yield from map_over_cluster(
                allocator, prepare_worker, partial(run_group, self.plan), groups
            )
        finally:
            cluster.close()

    def losses(self, node_id: int, shadows: int) -> ShadowLosses:
        """Return what the shadow federations say of a client's candidates.

        Raises
        ------
        RunDirectoryError
            If a file is not what was written.
        """
        asked = self._asked[node_id]
        target = self.plan.target_of(node_id - 1)
        found = np.stack([self._read(shadow, asked) for shadow in range(shadows)])
        included = [self.plan.design.included(shadow, target) for shadow in range(shadows)]
        count = len(target.candidates)
        return ShadowLosses(found[..., :count], found[..., count:], np.stack(included))

    # --- the plan ------------------------------------------------------------------------------

    def _planned(self, federation: Federation, seed: int) -> ShadowPlan:
        experiment, dataset, partition = self._experiment, federation.dataset, federation.partition
        fraction, train = experiment.data.client_test_fraction, len(dataset.train)
        clients = tuple(
            partition.split(client, fraction, experiment.run.seed)[0]
            for client in range(len(partition))
        )
        targets = tuple(
            Target(each.node_id - 1, each.members, each.others + train)
            for each in self._asked.values()
        )
        taken = [partition.indices(client) for client in range(len(partition))]
        taken += [target.others for target in targets]
        pool = np.setdiff1d(np.arange(train + len(dataset.test)), np.concatenate(taken))
        order = np.random.default_rng(derive_seed(seed, "population")).permutation(pool)
        count = min(POPULATION, len(pool) // 4)
        if count == 0:
            raise AttackError(
                f"shadow federations: no client and no candidate leaves {len(pool)} examples of "
                f"{dataset.name}; expected at least 4 (--candidates fewer)"
            )
        spec = replace(federation.spec, dataset=self.directory / DATASET, client_test_fraction=0.0)
        rounds = frozenset(
            (server_round, each.node_id - 1)
            for each in self._asked.values()
            for server_round in each.rounds
        )
        design = ShadowDesign(
            derive_seed(seed, "shadows"),
            _classes(dataset),
            clients,
            np.sort(order[count:]),
            targets,
        )
        return ShadowPlan(
            spec,
            federation.strategy,
            federation.initial_arrays,
            max(server_round for server_round, _ in rounds),
            derive_seed(experiment.run.seed, "server"),
            experiment.strategy.reduce,
            design,
            rounds,
            np.sort(order[:count]),
            self.obstacle is None,
        )

    def write_dataset_of_all(self) -> None:
        """Write a data set whose training split has all examples of the victim's."""
        target = self.directory / DATASET
        if target.exists():
            return
        dataset, text = self._dataset, self._dataset.directory / TOKENIZER
        whole = Split(
            np.concatenate([dataset.train.inputs, dataset.test.inputs]),
            np.concatenate([dataset.train.labels, dataset.test.labels]),
        )
        decoded = Decoded(
            dataset.task,
            whole,
            Split(dataset.test.inputs[:1], dataset.test.labels[:1]),
            inputs=dataset.inputs,
            augmentation=dataset.augmentation,
            tokenizer=text.read_text("utf-8") if text.exists() else None,
        )
        with appearing(target) as folder:
            write_dataset(dataset.name, decoded, folder)

    # --- files ---------------------------------------------------------------------------------

    def _path(self, shadow: int) -> Path:
        return self.directory / f"shadow-{shadow:04d}.safetensors"

    def _is_there(self, shadow: int) -> bool:
        return self._path(shadow).is_file()

    def _write(self, shadow: int, losses: Losses) -> None:
        if losses.keys() != self.plan.asked:
            missing = min(self.plan.asked - losses.keys())
            raise EngineError(
                f"shadow federation {shadow}: node {missing[1] + 1} is not in round {missing[0]}, "
                "as it is in the run; expected a strategy that draws clients by the run's seed"
            )
        with replacing(self._path(shadow)) as partial_file:
            save_file({_name(*key): found for key, found in losses.items()}, partial_file)

    def _read(self, shadow: int, asked: Asked) -> NDArray[np.float64]:
        path = self._path(shadow)
        try:
            found = load(read_bytes(path, limit=MAX_BYTES))
            rows = np.stack([found[_name(r, asked.node_id - 1)] for r in asked.rounds])
            expected = 2 * len(asked.members) + len(self.population)
            if rows.dtype != np.float64 or rows.shape[1] != expected:
                raise ValueError(f"expected {expected} losses")
        except (SafetensorError, KeyError, ValueError) as error:
            raise RunDirectoryError(
                f"{path}: is not a shadow federation's ({error}); remove it, and it is run again"
            ) from error
        return rows


def prepare_worker() -> None:
    """Set a worker up: with one thread, bits do not depend on the machine."""
    torch.set_num_threads(1)
    flower.log_errors_only()
    logger.setLevel(logging.ERROR)


def run_group(plan: ShadowPlan, shadows: tuple[int, ...]) -> list[Losses]:
    """Run shadow federations in this process.

    Parameters
    ----------
    plan : ShadowPlan
        The plan.
    shadows : tuple[int, ...]
        Their numbers.
    """
    with tempfile.TemporaryDirectory() as folder:
        if plan.together:
            return run_together(plan, shadows, Path(folder))
        return [run_alone(plan, shadow, Path(folder)) for shadow in shadows]


def _name(server_round: int, client: int) -> str:
    return f"{server_round}-{client}"


def _classes(dataset: Dataset) -> Indices:
    labels = np.concatenate([dataset.train.labels, dataset.test.labels])
    if isinstance(dataset.task, Classification):
        return labels.astype(np.int64)
    return np.zeros(len(labels), np.int64)


def _check(experiment: Experiment, federation: Federation) -> None:
    """Refuse federations that shadow federations cannot be run of."""
    problem = None
    if experiment.layers is not None:
        problem = "[layers] trains without rounds of clients"
    elif experiment.unlearn is not None:
        problem = "[unlearn] begins with another run's model, or has clients leave"
    elif federation.dataset.domains:
        problem = "its data have domains, which shadow federations do not keep apart"
    elif flower.overrides_start(federation.strategy):
        problem = f"{type(federation.strategy).__name__} has rounds of its own"
    elif isinstance(federation.strategy, AsynchronousStrategy):
        problem = f"{type(federation.strategy).__name__} waits for no reply"
    elif not isinstance(list(nested_strategies(federation.strategy))[-1], FedAvg):
        problem = f"{type(federation.strategy).__name__} is not derived from FedAvg"
    if problem is not None:
        raise AttackError(f"--shadows: {problem}; expected a run without")


def _key(experiment: Experiment, federation: Federation, asked: Sequence[Asked], seed: int) -> str:
    """Return a hash of all that shadow federations depend on."""
    config = relevant(experiment.to_dict())
    config["data"].pop("path", None)
    whose: Mapping[str, object] = {
        str(each.node_id): [each.rounds, each.members.tolist(), each.others.tolist()]
        for each in asked
    }
    described = [FORMAT, config, federation.dataset.fingerprint, whose, seed]
    return sha256_of_json(described)[:16]
