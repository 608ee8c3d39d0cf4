"""Started by test_nodes.py: federations on a cluster whose nodes die and join while they train."""

from __future__ import annotations

import json
import logging
import sys
import tempfile
import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import ray
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, RecordDict
from flwr.serverapp.strategy import FedAvg

from atoll.clients.data.files.dataset import Decoded, Split, write_dataset
from atoll.platform.callbacks.observers import RoundRecord
from atoll.platform.grid.ray_grid import RayGrid
from atoll.platform.rounds.round_loop import run_rounds
from atoll.platform.rounds.round_options import RoundOptions
from atoll.platform.run_directory.checkpoint import parameters_sha256
from tests.support.apps.node_app import app, make_reader, nodes_in
from tests.support.clusters.node_cluster import Node, NodeCluster, wait_until

CLIENTS, ROUNDS, LARGE_ROUNDS = 12, 6, 3
# Large enough to go through the object store in both directions; so large that sums stay on nodes.
SIZE, LARGE_SIZE = 100_000, 550_000


class Watch:
    """An observer that keeps every round's record."""

    def __init__(self) -> None:
        self.rounds: list[RoundRecord] = []

    def on_start(self, run: Any) -> None: ...

    def on_end(self, result: Any) -> None: ...

    def on_round(self, record: RoundRecord) -> None:
        self.rounds.append(record)

    @property
    def errors(self) -> list[str]:
        return [str(r) for one in self.rounds for r in one.clients["reason"] if r is not None]


def train(
    grid: RayGrid,
    folder: Path,
    after: dict[int, Callable[[], None]] | None = None,
    *,
    rounds: int = ROUNDS,
    size: int = SIZE,
) -> tuple[str, Watch]:
    """Return the final parameters' hash, and what was seen; ``after`` acts between rounds."""
    watch = Watch()
    arrays = ArrayRecord({"w": Array(np.ones((2, size), np.float32))})

    def act(record: RoundRecord) -> None:
        (after or {}).get(record.server_round, lambda: None)()

    result = run_rounds(
        FedAvg(fraction_evaluate=0.0),
        grid,
        arrays,
        rounds,
        train_config=ConfigRecord({"folder": str(folder)}),
        options=RoundOptions(observers=[watch], callbacks=[act]),
    )
    return parameters_sha256(result.arrays), watch


def id_of(node: Node) -> str | None:
    for known in ray.nodes():
        if known["NodeManagerAddress"] == node.address and known["Alive"]:
            return str(known["NodeID"])
    return None


def joined(node: Node) -> str:
    """Return a node's Ray id, once it is there."""
    wait_until(lambda: id_of(node), f"node {node.address}")
    return str(id_of(node))


def ask(folder: Path, what: str, words: str) -> None:
    """Have clients of a round wait; see node_app."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / what).write_text(words)


class Killer(threading.Thread):
    """Kills a node in a round, when one more than ``passing`` of its clients have started."""

    def __init__(self, nodes: NodeCluster, node: Node, folder: Path, passing: int) -> None:
        super().__init__()
        self._node, self._folder, self._passing = node, folder, passing
        self._nodes, self._id = nodes, joined(node)
        ask(folder, "hold", f"{self._id} {passing}")

    def run(self) -> None:
        wait_until(self._is_held, "a client that is held on the node")
        self._nodes.kill(self._node)

    def _is_held(self) -> bool:
        return nodes_in(self._folder).count(self._id) > self._passing


def come_and_go(nodes: NodeCluster, grid: RayGrid, ids: list[str], second: Node) -> dict[str, Any]:
    """Kill a node in the middle of round 2, let another join after round 4."""
    folder = Path(tempfile.mkdtemp())
    workers = {1: grid.workers}
    killers: list[Killer] = []

    def kill_in_round_2() -> None:
        killers.append(Killer(nodes, second, folder / "2", 0))
        killers[0].start()

    def join() -> None:
        workers[4] = grid.workers
        ids.append(joined(nodes.add_node(2)))
        ask(folder / "5", "until", ids[2])

    # One node's workers may be there long before the other's.
    ask(folder / "1", "until", " ".join(ids))
    sha256, watch = train(grid, folder, {1: kill_in_round_2, 4: join})
    workers[6] = grid.workers
    killers[0].join()
    used = {n: sorted({ids.index(i) for i in nodes_in(folder / str(n))}) for n in range(1, 7)}
    return {"sha256": sha256, "errors": watch.errors, "workers": workers, "nodes": used}


def large(nodes: NodeCluster, grid: RayGrid, third: Node) -> dict[str, Any]:
    """Train a large model on two nodes, and kill one in round 2 that has sums already."""
    folder = Path(tempfile.mkdtemp())
    killers: list[Killer] = []

    def kill_in_round_2() -> None:
        killers.append(Killer(nodes, third, folder / "2", 2))
        killers[0].start()

    ask(folder / "1", "until", joined(third))
    options: Any = {"rounds": LARGE_ROUNDS, "size": LARGE_SIZE}
    sha256, watch = train(grid, folder, {1: kill_in_round_2}, **options)
    killers[0].join()
    traffic = [(record.sum_bytes_made, record.sum_bytes_moved) for record in watch.rounds]
    return {"sha256": sha256, "errors": watch.errors, "traffic": traffic}


def data(path: Path) -> dict[str, Any]:
    """Start two workers on a node that does not have their data."""
    images = np.random.default_rng(0).integers(0, 256, (500, 16, 16, 3), np.uint8)
    split = Split(images, np.zeros(500, np.int64))
    path.mkdir()
    write_dataset("noise", Decoded(("noise",), split, split), path)
    answers: set[int] = set()
    with RayGrid(partial(make_reader, path), 8, chunk_size=1, data=[path]) as grid:
        while len(grid.pool.pids()) < 2:
            messages = [Message(RecordDict(), dst_node_id=n, message_type="query") for n in (1, 2)]
            replies = grid.send_and_receive(messages)
            answers.update(int(reply.content["answer"]["pixels"]) for reply in replies)
        return {
            "right": answers == {int(images.sum(dtype=np.int64))},
            "brought": list(grid.pool.bytes_brought.values()),
            "size": sum(file.stat().st_size for file in path.iterdir()),
            "files": sorted(file.name for file in path.iterdir()),
        }


def undisturbed() -> dict[str, str]:
    """Train on one worker."""
    with RayGrid(app, CLIENTS, workers=1, chunk_size=1, seed=1) as grid:
        small, _ = train(grid, Path(tempfile.mkdtemp()))
        sizes: Any = {"rounds": LARGE_ROUNDS, "size": LARGE_SIZE}
        return {"small": small, "large": train(grid, Path(tempfile.mkdtemp()), **sizes)[0]}


def main() -> None:
    logging.basicConfig(level=logging.INFO)
    nodes = NodeCluster(private=sys.argv[1] == "private")
    found: dict[str, Any] = {}
    try:
        nodes.start_head()
        nodes.wait_for_head()
        ray.init(address=nodes.address, logging_level="ERROR", log_to_driver=False)
        folder = Path(tempfile.mkdtemp())
        ids = [joined(nodes.add_node(2, hidden=folder))]
        found["data"] = data(folder / "noise")
        found["undisturbed"] = undisturbed()
        second = nodes.add_node(2)
        ids.append(joined(second))
        with RayGrid(app, CLIENTS, chunk_size=1, seed=1) as grid:
            found["come_and_go"] = come_and_go(nodes, grid, ids, second)
            found["large"] = large(nodes, grid, nodes.newest)
        ray.shutdown()
    finally:
        nodes.close()
    print("FOUND " + json.dumps(found), flush=True)


if __name__ == "__main__":
    sys.exit(main())
