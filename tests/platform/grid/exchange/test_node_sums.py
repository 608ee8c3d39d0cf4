"""Sums that stay on nodes: which chunks a node gets, what crosses the network, what is lost."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ray.exceptions import ObjectLostError

from atoll.platform.grid.exchange import node_sums
from atoll.platform.grid.exchange.cohort import Cohort
from atoll.platform.grid.exchange.node_sums import Merge, NodeSums, Traffic
from atoll.platform.messages.exchange import Chunk, ChunkResult, Envelope, Exchange
from atoll.platform.messages.outcome import Outcome
from atoll.platform.pool.jobs import Job
from atoll.platform.run_directory.node_states import NodeStates
from atoll.platform.worker.sum_tree import TreeSum
from tests.platform.worker.test_sum_tree import by_definition, chunk_sum, values_of


def sums(count: int) -> NodeSums:
    return NodeSums(count, "driver", lambda: ["a", "b", "c", "d"], Traffic())


@pytest.mark.parametrize(
    ("turns", "given"),
    [
        ("abababab", {"a": [0, 1, 2, 3], "b": [4, 5, 6, 7]}),
        # One that comes late leaves what is next to the others.
        ("aaaabbaa", {"a": [0, 1, 2, 3, 4, 5], "b": [6, 7]}),
        ("abcdabcd", {"a": [0, 1], "b": [4, 5], "c": [2, 3], "d": [6, 7]}),
        # A node that is slow, or late, loses what it has not begun.
        ("abaaaaaa", {"a": [0, 1, 2, 3, 6, 7, 5], "b": [4]}),
    ],
)
def test_a_node_gets_chunks_that_lie_next_to_each_other(
    turns: str, given: dict[str, list[int]]
) -> None:
    places, waiting = sums(8), set(range(8))
    found: dict[str, list[int]] = {node: [] for node in given}
    for node in turns:
        found[node].append(places.choose(waiting, node))
        waiting.remove(found[node][-1])
    assert found == given


class Nodes:
    """Workers on nodes that may be lost, with what was left there: the pool's part and Ray's."""

    here = "driver"

    def __init__(self, workers: dict[str, str]) -> None:
        self.workers = workers
        self.running: dict[str, Job] = {}
        self.left: dict[int, tuple[str, Any]] = {}
        self._made = 0

    def nodes(self) -> set[str]:
        return set(self.workers.values())

    def node_of(self, worker: str) -> str:
        return self.workers[worker]

    def get(self, reference: int) -> Any:
        if reference not in self.left:
            raise ObjectLostError("gone", None, "")
        return self.left[reference][1]

    def leave(self, node: str, value: Any) -> int:
        self._made += 1
        self.left[self._made] = node, value
        return self._made

    def assign(self, cohort: Cohort) -> None:
        for worker in self.workers:
            if worker not in self.running:
                job = cohort.next_job(len(self.workers), worker)
                if job is not None:
                    self.running[worker] = job

    def end(self, worker: str, cohort: Cohort, values: np.ndarray) -> None:
        """A worker ends its job."""
        job = self.running.pop(worker)
        node = self.workers[worker]
        if isinstance(job.payload, Merge):
            count, spans, top, *references = job.arguments
            tree = TreeSum(count)
            for span, reference in zip(spans, references, strict=True):
                assert self.left[reference][0] == node, "added up where it does not lie"
                tree.add(span, self.get(reference))
            total = tree.part(top)
            cohort.done(job, (total.nbytes, self.leave(node, total)))
            return
        (chunk,) = job.payload
        outcomes = [Outcome(chunk.positions[0], chunk.nodes[0], worker=worker)]
        total = chunk_sum(values[chunk.index], is_writeable=False)
        result = ChunkResult(chunk.index, outcomes, left_bytes=total.nbytes)
        cohort.done(job, ([result], self.leave(node, total)))

    def lose(self, node: str, cohort: Cohort) -> None:
        """A node dies; its workers are started on others."""
        others = [n for n in self.nodes() if n != node]
        self.left = {r: (n, value) for r, (n, value) in self.left.items() if n != node}
        for worker in [w for w, n in self.workers.items() if n == node]:
            del self.workers[worker]
            self._made += 1
            self.workers[f"{worker}'{self._made}"] = others[self._made % len(others)]
            if worker in self.running:
                cohort.put_back(self.running.pop(worker))


def cohort_of(count: int, nodes: Nodes) -> Cohort:
    envelope = Envelope(0, "train", "", 1.0, 0.0)
    exchange = Exchange(1, 0, 1, count, (envelope,), (None,), "num-examples", sum_replies=True)
    cut = [Chunk(index, (index,), (index + 1,), (0,), ("id",), ((1,),)) for index in range(count)]
    states = NodeStates()
    return Cohort(
        exchange, ["content"], cut, set(), workers=nodes, states=states, one_at_a_time=True
    )


def run(cohort: Cohort, nodes: Nodes, values: np.ndarray, draw: Any, lost: int) -> None:
    while not cohort.finished:
        nodes.assign(cohort)
        if cohort.finished:
            break
        assert nodes.running, "nothing runs, and the cohort is not finished"
        if lost and len(nodes.nodes()) > 1 and draw(st.integers(0, 5)) == 0:
            lost -= 1
            nodes.lose(draw(st.sampled_from(sorted(nodes.nodes() - {"driver"}))), cohort)
        else:
            nodes.end(draw(st.sampled_from(sorted(nodes.running))), cohort, values)


def run_in_turn(cohort: Cohort, nodes: Nodes, values: np.ndarray) -> None:
    """Let every worker that runs end, again and again."""
    while not cohort.finished:
        nodes.assign(cohort)
        assert nodes.running or cohort.finished, "nothing runs, and the cohort is not finished"
        for worker in sorted(nodes.running):
            nodes.end(worker, cohort, values)


def test_sums_come_to_the_driver_when_idle_workers_go_with_their_node() -> None:
    values = values_of(2, 0)
    nodes = Nodes({"w0": "a", "w1": "a", "w": "driver"})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(node_sums, "get", nodes.get)
        cohort = cohort_of(2, nodes)
        nodes.assign(cohort)
        for worker in ("w0", "w1"):
            nodes.end(worker, cohort, values)
        # Nobody has begun to add the two sums up when their node goes.
        nodes.lose("a", cohort)
        run_in_turn(cohort, nodes, values)
    np.testing.assert_array_equal(cohort.total.arrays["w"], by_definition(values, (0, 2)))


@settings(max_examples=80)
@given(
    count=st.integers(1, 24),
    workers=st.lists(st.sampled_from(["driver", "a", "b", "c"]), min_size=1, max_size=6),
    seed=st.integers(0, 2**32 - 1),
    data=st.data(),
)
def test_no_bit_depends_on_nodes_or_on_their_loss(
    count: int, workers: list[str], seed: int, data: st.DataObject
) -> None:
    values = values_of(count, seed)
    nodes = Nodes({f"w{i}": node for i, node in enumerate(workers)} | {"w": "driver"})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(node_sums, "get", nodes.get)
        cohort = cohort_of(count, nodes)
        run(cohort, nodes, values, data.draw, lost=data.draw(st.integers(0, 3)))
    np.testing.assert_array_equal(cohort.total.arrays["w"], by_definition(values, (0, count)))
    assert cohort.total.weight == count
    assert [o.position for o in cohort.outcomes()] == list(range(count))
    assert cohort.traffic.moved <= cohort.traffic.made


@pytest.mark.parametrize(("count", "workers"), [(8, 2), (10, 2), (8, 4), (32, 4)])
def test_one_sum_a_node_crosses_the_network(count: int, workers: int) -> None:
    values = values_of(count, 3)
    nodes = Nodes({f"w{i}": f"n{i}" for i in range(workers)})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(node_sums, "get", nodes.get)
        cohort = cohort_of(count, nodes)
        run_in_turn(cohort, nodes, values)
    assert cohort.traffic == Traffic(made=count * 40, moved=workers * 40)
    np.testing.assert_array_equal(cohort.total.arrays["w"], by_definition(values, (0, count)))


def test_what_a_round_s_timeout_leaves_is_summed_and_the_rest_are_errors() -> None:
    values = values_of(8, 4)
    nodes = Nodes({"w0": "a", "w1": "a", "w2": "b"})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(node_sums, "get", nodes.get)
        cohort = cohort_of(8, nodes)
        nodes.assign(cohort)
        for worker in ("w0", "w1"):
            nodes.end(worker, cohort, values)
        nodes.assign(cohort)
        assert any(isinstance(job.payload, Merge) for job in nodes.running.values())
        cohort.expired()
    assert cohort.finished
    assert [o.position for o in cohort.outcomes() if o.status == "ok"] == [0, 1]
    np.testing.assert_array_equal(cohort.total.arrays["w"], values[0] + values[1])
