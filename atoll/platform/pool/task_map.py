"""A function over a list of arguments as Ray tasks: results come as they end.

It is what :mod:`atoll.attacks.arena` is given to spread its jobs, which knows no Ray.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import ray
from ray import cloudpickle
from ray.exceptions import RayError, RayTaskError

from atoll.platform.cluster.bounded_waits import get, wait_for_one

# Tasks that are submitted and not done, for each that can run: no worker waits for its next.
AHEAD = 2


class TaskMap:
    """Maps functions over a cluster; every task has its share of a processor and of a GPU.

    Parameters
    ----------
    cpus, gpus : float
        What a task takes of the cluster.
    slots : int
        How many tasks the cluster can run at once.
    prepare : callable
        Called in the task's process before the function.
    """

    def __init__(
        self, cpus: float, gpus: float, slots: int, prepare: Callable[[], None] = lambda: None
    ) -> None:
        self._ahead = AHEAD * max(1, slots)
        self._prepare = prepare
        self._task = ray.remote(_call).options(num_cpus=cpus, num_gpus=gpus, max_retries=2)

    def __call__(
        self, function: Callable[[Any], Any], arguments: Sequence[Any]
    ) -> Iterator[tuple[int, Any]]:
        """Yield each argument's place and its result, as they end.

        An exception that the function raised, or the death of a task's process again and again, is
        yielded in the place of a result.
        """
        waiting = iter(enumerate(arguments))
        under_way: dict[Any, int] = {}
        # As bytes: they are read where the driver's modules can be found.
        shared = ray.put((list(sys.path), cloudpickle.dumps((self._prepare, function))))
        try:
            while True:
                while len(under_way) < self._ahead:
                    place, argument = next(waiting, (None, None))
                    if place is None:
                        break
                    under_way[self._task.remote(shared, argument)] = place
                if not under_way:
                    return
                [reference] = wait_for_one(list(under_way))
                yield under_way.pop(reference), _result_of(reference)
        finally:
            for reference in under_way:
                ray.cancel(reference, force=True)


def _call(shared: tuple[list[str], bytes], argument: Any) -> Any:
    search_path, functions = shared
    sys.path.extend(path for path in search_path if path not in sys.path)
    prepare, function = cloudpickle.loads(functions)
    prepare()
    return function(argument)


def _result_of(reference: Any) -> Any:
    try:
        return get(reference)
    except RayTaskError as error:
        return error.cause if isinstance(error.cause, Exception) else error
    except RayError as error:
        return error
