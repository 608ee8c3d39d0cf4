"""The order in which an exchange's chunks are given to workers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from atoll.platform.grid.exchange.cohort import LOOK_AHEAD, Cohort
from atoll.platform.messages.exchange import Chunk, Envelope, Exchange
from atoll.platform.run_directory.node_states import NodeStates
from atoll.platform.worker.gpu_memory import Shortage


class OneNode:
    """All workers are on the driver's node."""

    here = "here"

    def nodes(self) -> list[str]:
        return [self.here]

    def node_of(self, worker: str) -> str:
        return self.here


def cohort(
    chunks: int, places: Mapping[tuple[int, ...], str], suspects: set[int], **options: Any
) -> Cohort:
    envelope = Envelope(0, "train", "", 1.0, 0.0)
    exchange = Exchange(1, 0, 1, chunks, (envelope,), (None,))
    cut = [Chunk(index, (index,), (index + 1,), (0,), ("id",), ((1,),)) for index in range(chunks)]
    given = {"workers": OneNode(), "states": NodeStates(), "places": places}
    return Cohort(exchange, ["content"], cut, suspects, **given, **options)


def nodes_given(cohort: Cohort, *workers: str) -> list[int]:
    given = []
    for worker in workers:
        job = cohort.next_job(2, worker)
        assert job is not None
        given.append(job.payload[0].nodes[0])
    return given


EARLIER = {(1,): "b", (2,): "a", (3,): "b", (4,): "a"}


def test_a_worker_gets_the_clients_that_it_had_in_the_exchange_before() -> None:
    given = cohort(4, EARLIER, set())
    assert nodes_given(given, "a", "a", "b", "b") == [2, 4, 1, 3]
    assert given.places == EARLIER
    assert given.finished is False
    assert given.next_job(2, "a") is None


def test_a_worker_without_clients_of_its_own_left_takes_the_first() -> None:
    given = cohort(4, EARLIER, set())
    assert nodes_given(given, "a", "a", "a", "c") == [2, 4, 1, 3]
    assert given.places == {(2,): "a", (4,): "a", (1,): "a", (3,): "c"}


def test_a_client_that_has_killed_workers_is_nobody_s_own() -> None:
    assert nodes_given(cohort(4, EARLIER, {2}), "a", "a", "a") == [4, 2, 1]


def test_large_replies_stay_in_order() -> None:
    assert nodes_given(cohort(4, EARLIER, set(), one_at_a_time=True), "a", "a") == [1, 2]


def test_a_worker_does_not_look_far_ahead() -> None:
    count = LOOK_AHEAD + 2
    places = {(count,): "a", (LOOK_AHEAD,): "a"}
    assert nodes_given(cohort(count, places, set()), "a", "a") == [LOOK_AHEAD, 1]


def test_a_chunk_that_does_not_fit_at_once_ends_the_attempt_for_all_of_them() -> None:
    given = cohort(4, {}, set())
    job = given.next_job(2, "a")
    assert job is not None
    assert not given.too_large(job, Shortage("node 1", 1, ""))
    assert given.finished is False
    assert given.too_large(job, Shortage("nodes 1 to 9", 9, ""))
    assert given.finished is True
    assert given.at_once == 4
