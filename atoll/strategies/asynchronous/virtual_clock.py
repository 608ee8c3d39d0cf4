"""Virtual clock: simulated time that advances from one end of a client's work to the next."""

from __future__ import annotations

import heapq
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from atoll.strategies.asynchronous.devices import MICROSECONDS, Devices


@dataclass(frozen=True, order=True)
class Task:
    """One client's training.

    Attributes
    ----------
    end : int
        When its reply is there, in microseconds since the start.
    node : int
        The client.
    version : int
        The server's updates before the model that it trains.
    """

    end: int
    node: int
    version: int


class VirtualClock:
    """Clock of simulated time, and the clients at work in it.

    Parameters
    ----------
    devices : Devices
        How fast they are, and when they are there.

    Attributes
    ----------
    now : int
        Microseconds since the start.
    """

    def __init__(self, devices: Devices) -> None:
        self.devices = devices
        self.now = 0
        self._tasks: list[Task] = []
        self._begun: dict[int, int] = {}

    def __len__(self) -> int:
        return len(self._tasks)

    @property
    def tasks(self) -> tuple[Task, ...]:
        """The tasks that are under way."""
        return tuple(self._tasks)

    @property
    def busy(self) -> set[int]:
        """The nodes at work."""
        return {task.node for task in self._tasks}

    def available(self, nodes: Iterable[int]) -> list[int]:
        """Return those nodes that are there and not at work, in ascending order."""
        busy = self.busy
        there = self.devices.is_available
        return sorted(node for node in nodes if node not in busy and there(node, self.now))

    @property
    def seconds(self) -> float:
        """Seconds since the start."""
        return self.now / MICROSECONDS

    def begin(self, node: int, version: int) -> None:
        """Give a node that is there a model to train."""
        number = self._begun.get(node, 0)
        self._begun[node] = number + 1
        end = self.devices.finish(node, self.now, number)
        heapq.heappush(self._tasks, Task(end, node, version))

    def next_end(self) -> int | None:
        """Return the end of the next task, or None without tasks."""
        return self._tasks[0].end if self._tasks else None

    def move_to(self, moment: float) -> None:
        """Move on to a moment, unless it is past."""
        self.now = max(self.now, int(moment))

    def take(self) -> Task:
        """Move on to the next task's end, and return it; equal ends come by node."""
        task = heapq.heappop(self._tasks)
        self.move_to(task.end)
        return task

    def stop_all(self) -> None:
        """Take all work away, undone."""
        self._tasks = []

    def wait_for_any(self, nodes: Iterable[int]) -> None:
        """Move on to when the first of these nodes is there."""
        self.now = min(self.devices.next_appearance(node, self.now) for node in nodes)

    def state_dict(self) -> dict[str, Any]:
        """Return the state that :meth:`load_state_dict` restores."""
        tasks = [[task.end, task.node, task.version] for task in sorted(self._tasks)]
        return {"now": self.now, "tasks": tasks, "begun": dict(self._begun)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore the state of a checkpoint."""
        self.now = int(state["now"])
        self._tasks = [Task(*map(int, task)) for task in state["tasks"]]
        self._begun = {int(node): int(count) for node, count in state["begun"].items()}
