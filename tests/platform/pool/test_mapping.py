"""Functions over lists of arguments, on workers that a pool has or that are started for it."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from atoll.errors import AttackError, EngineError
from atoll.platform.cluster.capacity import WorkerRequest
from atoll.platform.cluster.connection import Cluster
from atoll.platform.cluster.worker_allocation import WorkerAllocator
from atoll.platform.pool.mapping import map_over_cluster


class UnpicklableError(Exception):
    """One that is not made again from its text."""

    def __init__(self, first: int, second: int) -> None:
        super().__init__(f"{first} and {second}")


def squared(number: int) -> int:
    if number == 3:
        raise AttackError("three cannot be squared")
    if number == 5:
        raise UnpicklableError(5, 25)
    return number**2


def squared_or_killed(argument: tuple[int, Path]) -> int:
    number, folder = argument
    if number == 1 or (number == 2 and not (folder / "killed").exists()):
        (folder / "killed").touch()
        os._exit(1)
    return number**2


def whereabouts(_: int) -> tuple[int, int, Any]:
    import torch

    return os.getpid(), torch.get_num_threads(), os.environ.get("ATOLL_PREPARED")


def prepare() -> None:
    import torch

    torch.set_num_threads(1)
    os.environ["ATOLL_PREPARED"] = "yes"


def nothing() -> None: ...


def mapped(
    function: Callable[[Any], Any], arguments: Sequence[Any], prepare: Any = nothing
) -> Iterator[tuple[int, Any]]:
    allocator = WorkerAllocator(Cluster(), WorkerRequest(2, 1.0, 0.0))
    return map_over_cluster(allocator, prepare, function, arguments)


def test_every_place_gets_its_result_or_its_exception(cluster: None) -> None:
    found = dict(mapped(squared, list(range(12))))
    assert sorted(found) == list(range(12))
    error, other = found.pop(3), found.pop(5)
    assert isinstance(error, AttackError)
    assert str(error) == "three cannot be squared"
    assert isinstance(other, EngineError)
    assert str(other) == "UnpicklableError: 5 and 25"
    assert all(result == place**2 for place, result in found.items())


def test_a_call_whose_worker_dies_is_repeated_and_given_up_at_last(
    cluster: None, tmp_path: Path
) -> None:
    found = dict(mapped(squared_or_killed, [(number, tmp_path) for number in range(4)]))
    error = found.pop(1)
    assert isinstance(error, EngineError)
    assert str(error) == "3 workers died while they ran part 1"
    assert found == {0: 0, 2: 4, 3: 9}


def test_calls_run_in_prepared_processes_that_are_not_this_one(cluster: None) -> None:
    for _, (pid, threads, prepared) in mapped(whereabouts, [0, 1], prepare):
        assert pid != os.getpid()
        assert (threads, prepared) == (1, "yes")


def test_nothing_to_do_starts_no_worker(cluster: None) -> None:
    assert list(mapped(squared, [])) == []


def test_giving_up_leaves_nothing_running(cluster: None) -> None:
    results = mapped(squared, list(range(100)))
    next(results)
    with pytest.raises(KeyboardInterrupt):
        results.throw(KeyboardInterrupt)  # type: ignore[attr-defined]
    assert list(results) == []
