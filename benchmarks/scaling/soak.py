"""A federation on a Ray cluster whose workers and nodes are killed again and again.

Run it: ``python -m benchmarks.scaling.soak --minutes 30``. It starts several raylets as the nodes
of a cluster, trains for that long while it kills a random worker every 20 seconds and a random node
every 3 minutes (and adds one back), then trains the same rounds again, undisturbed, on a Ray of its
own with another number of workers. It passes (exit code 0) if no update was lost and the final
parameters have the same bits.
"""

from __future__ import annotations

import argparse
import logging
import os
import random
import signal
import sys
import time
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import ray
from flwr.app import ArrayRecord
from flwr.serverapp.strategy import FedAvg
from ray.cluster_utils import Cluster as Raylets

from atoll.clients.apps.client_app import ClientSpec, make_client_app
from atoll.clients.arrays.model_arrays import ModelArrays
from atoll.clients.data import load_dataset, partition_dataset
from atoll.clients.models.model_building import build_model
from atoll.clients.settings import ClientSettings, DataSettings, ModelSettings
from atoll.platform.callbacks.observers import RoundRecord
from atoll.platform.grid.ray_grid import RayGrid
from atoll.platform.rounds.round_loop import run_rounds
from atoll.platform.rounds.round_options import RoundOptions
from atoll.platform.run_directory.checkpoint import parameters_sha256
from benchmarks.scaling.own_ray import own_ray

CLIENTS = 32
ENDLESS = 1_000_000
SEED = 0


@dataclass
class Federation:
    """Federation that is trained: digits, dealt to clients by a Dirichlet distribution.

    Attributes
    ----------
    spec : ClientSpec
        The clients.
    arrays : ArrayRecord
        The model before the first round.
    """

    spec: ClientSpec
    arrays: ArrayRecord

    @classmethod
    def of_digits(cls, epochs: int) -> Federation:
        """Return the federation; more ``epochs`` make longer rounds."""
        dataset = load_dataset("digits")
        partition = partition_dataset(
            dataset, DataSettings(dataset="digits", clients=CLIENTS), SEED
        )
        spec = ClientSpec(
            dataset=dataset.directory,
            partition=partition.directory,
            model=ModelSettings(name="mlp"),
            client=ClientSettings(batch_size=8, epochs=epochs, learning_rate=0.05),
            num_rounds=ENDLESS,
            seed=SEED,
        )
        model = build_model(spec.model, dataset.image_shape, len(dataset.classes), 1)
        return cls(spec, ModelArrays(model).read())

    def grid(self, **options: Any) -> RayGrid:
        """Return a grid of its clients, who train one after another."""
        return RayGrid(partial(make_client_app, self.spec), CLIENTS, seed=SEED, **options)


@dataclass
class Account:
    """Outcomes of the clients of a run, counted round by round.

    Attributes
    ----------
    ends_at : float or None
        ``time.monotonic()`` after which no further round begins.
    """

    ends_at: float | None = None
    rounds: int = 0
    asked: int = 0
    replied: int = 0
    errors: list[str] = field(default_factory=list)

    def on_round(self, record: RoundRecord) -> None:
        """Count a round."""
        self.rounds = record.server_round
        self.asked += record.cohort
        self.replied += record.replies
        self.errors += [
            f"round {record.server_round}, node {node}: {reason}"
            for node, reason in zip(
                record.clients["node_id"], record.clients["reason"], strict=True
            )
            if reason is not None
        ]

    def should_stop(self, record: RoundRecord) -> str | None:
        """Stop when the time is over (a stopping rule)."""
        is_over = self.ends_at is not None and time.monotonic() >= self.ends_at
        return "the time is over" if is_over else None

    def state_dict(self) -> dict[str, Any]:
        """Return nothing: no checkpoint is written."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take nothing."""


class Nodes:
    """A cluster whose head has no CPUs, so that all workers are on nodes that can be killed."""

    def __init__(self, count: int) -> None:
        self._raylets = Raylets(
            initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False}
        )
        self.count = count
        self._nodes = [self._raylets.add_node(num_cpus=1) for _ in range(count)]
        self._raylets.wait_for_nodes()
        self.address = self._raylets.address

    def kill(self, place: int) -> str:
        """Kill a node without warning; return its id."""
        lost = self._nodes.pop(place)
        self._raylets.remove_node(lost, allow_graceful=False)
        return str(lost.node_id)

    @property
    def alive(self) -> int:
        """Number of nodes beside the head."""
        return len(self._nodes)

    def add(self) -> str | None:
        """Start a node in place of one that was killed; return its id, or None if it failed."""
        try:
            self._nodes.append(self._raylets.add_node(num_cpus=1))
        except Exception as error:
            # On a crowded machine a raylet may not be up within Ray's time.
            logging.getLogger("atoll").warning("no node could be started: %s", error)
            return None
        return str(self._nodes[-1].node_id)

    def shut_down(self) -> None:
        """Stop all nodes."""
        self._raylets.shutdown()


class Killer:
    """Kills workers and nodes at random while a run continues in another thread.

    It works in the main thread: only there can Ray start a node.

    Parameters
    ----------
    grid : RayGrid
        Whose workers.
    nodes : Nodes
        Whose nodes.
    worker_every, node_every : float
        Seconds between two kills of a kind; 0 is never.
    """

    def __init__(self, grid: RayGrid, nodes: Nodes, worker_every: float, node_every: float) -> None:
        self._grid = grid
        self._nodes = nodes
        self._random = random.Random(SEED)
        self._started = time.monotonic()
        self._every = {self._kill_worker: worker_every, self._kill_node: node_every}
        self.killed = {"worker": 0, "node": 0}

    def kill_until(self, run: Future[str]) -> None:
        """Kill on time until the run has ended."""
        due = {kill: self._started + every for kill, every in self._every.items() if every > 0}
        while not run.done():
            wait([run], timeout=1.0)
            for kill, moment in due.items():
                if time.monotonic() >= moment and not run.done():
                    kill()
                    due[kill] = moment + self._every[kill]
            if self._nodes.alive < self._nodes.count and not run.done():
                self._add_node()

    def _kill_worker(self) -> None:
        pids = self._grid.pool.pids()
        if not pids:
            return
        pid = self._random.choice(pids)
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            return
        self.killed["worker"] += 1
        self._say(f"killed worker with process {pid}")

    def _kill_node(self) -> None:
        if self._nodes.alive < 2:
            return
        lost = self._nodes.kill(self._random.randrange(self._nodes.alive))
        self.killed["node"] += 1
        self._say(f"killed node {lost[:8]}")

    def _add_node(self) -> None:
        added = self._nodes.add()
        if added is not None:
            self._say(f"added node {added[:8]}")

    def _say(self, what: str) -> None:
        print(f"{time.monotonic() - self._started:7.1f} s: {what}", flush=True)


def train(federation: Federation, grid: RayGrid, rounds: int, account: Account) -> str:
    """Train, and return the hash of the final parameters."""
    options = RoundOptions(callbacks=[account.on_round], stopping=account)
    strategy = FedAvg(fraction_evaluate=0.0)
    result = run_rounds(strategy, grid, federation.arrays, rounds, options=options)
    return parameters_sha256(result.arrays)


def train_disturbed(federation: Federation, arguments: Any) -> tuple[str, Account, dict[str, int]]:
    """Train on nodes that are killed; return the hash, the account and how many were killed."""
    nodes = Nodes(arguments.nodes)
    ray.init(address=nodes.address, logging_level="ERROR", log_to_driver=False)
    try:
        with federation.grid(workers=arguments.nodes) as grid, ThreadPoolExecutor(1) as thread:
            account = Account(time.monotonic() + 60 * arguments.minutes)
            killer = Killer(grid, nodes, arguments.worker_every, arguments.node_every)
            run = thread.submit(train, federation, grid, ENDLESS, account)
            killer.kill_until(run)
            sha256 = run.result()
            print(f"the engine replaced {grid.pool.deaths} workers")
        return sha256, account, killer.killed
    finally:
        ray.shutdown()
        nodes.shut_down()


def verdict(
    disturbed: tuple[str, Account], undisturbed: tuple[str, Account], killed: dict[str, int]
) -> bool:
    """Say how the two runs compare; return whether nothing was lost."""
    (sha256, account), (expected, reference) = disturbed, undisturbed
    print(f"killed: {killed['worker']} workers, {killed['node']} nodes")
    for name, one in (("disturbed", account), ("undisturbed", reference)):
        print(f"{name}: {one.rounds} rounds, {one.replied} of {one.asked} updates")
    for error in account.errors:
        print(f"lost: {error}")
    print(f"disturbed parameters:   {sha256}")
    print(f"undisturbed parameters: {expected}")
    is_whole = account.replied == account.asked == reference.asked and not account.errors
    is_same = sha256 == expected
    print("no update was lost" if is_whole else "updates were lost")
    print("the final bits are the same" if is_same else "the final bits differ")
    return is_whole and is_same and killed["worker"] + killed["node"] > 0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--nodes", type=int, default=3, help="nodes beside the head, of a worker")
    parser.add_argument("--worker-every", type=float, default=20.0, help="seconds; 0 is never")
    parser.add_argument("--node-every", type=float, default=180.0, help="seconds; 0 is never")
    parser.add_argument("--epochs", type=int, default=5, help="of a client; more are longer rounds")
    arguments = parser.parse_args()
    # Flower says which nodes it sampled, every round.
    logging.getLogger("flwr").setLevel(logging.WARNING)
    federation = Federation.of_digits(arguments.epochs)
    with own_ray():
        sha256, account, killed = train_disturbed(federation, arguments)
    reference = Account()
    with own_ray(), federation.grid(workers=2) as grid:
        expected = train(federation, grid, account.rounds, reference)
    passed = verdict((sha256, account), (expected, reference), killed)
    print("PASSED" if passed else "FAILED")
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main())
