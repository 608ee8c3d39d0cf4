import os
from typing import Any

import pytest

from atoll.errors import AttackError
from atoll.platform.pool.task_map import TaskMap


def squared(number: int) -> int:
    if number == 3:
        raise AttackError("three cannot be squared")
    return number**2


def whereabouts(_: int) -> tuple[int, int, Any]:
    import torch

    return os.getpid(), torch.get_num_threads(), os.environ.get("ATOLL_PREPARED")


def prepare() -> None:
    import torch

    torch.set_num_threads(1)
    os.environ["ATOLL_PREPARED"] = "yes"


def test_every_place_gets_its_result_or_its_exception(cluster: None) -> None:
    found = dict(TaskMap(1.0, 0.0, 2)(squared, list(range(12))))
    assert sorted(found) == list(range(12))
    error = found.pop(3)
    assert isinstance(error, AttackError)
    assert str(error) == "three cannot be squared"
    assert all(result == place**2 for place, result in found.items())


def test_tasks_run_in_prepared_processes_that_are_not_this_one(cluster: None) -> None:
    for _, (pid, threads, prepared) in TaskMap(1.0, 0.0, 2, prepare)(whereabouts, [0, 1]):
        assert pid != os.getpid()
        assert (threads, prepared) == (1, "yes")


def test_nothing_to_do_is_done_at_once(cluster: None) -> None:
    assert list(TaskMap(1.0, 0.0, 2)(squared, [])) == []


def test_giving_up_leaves_nothing_running(cluster: None) -> None:
    results = TaskMap(1.0, 0.0, 2)(squared, list(range(100)))
    next(results)
    with pytest.raises(KeyboardInterrupt):
        results.throw(KeyboardInterrupt)  # type: ignore[attr-defined]
    assert list(results) == []
