"""Simulated devices: speed and availability of each node."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from atoll.randomness import derive_seed

MICROSECONDS = 1_000_000


@dataclass(frozen=True)
class Devices:
    """The devices of a federation; each one's speed and hours follow from the seed and its node id.

    A device that becomes unavailable during its work continues it when it is available again.

    Attributes
    ----------
    seconds : float
        The median time that a client takes, from the message to its reply, while it is there.
    spread : float
        Of devices' speeds: the standard deviation of the logarithm of their times (a log-normal
        distribution); 0 for equal devices.
    jitter : float
        The same from one task of a device to the next.
    availability : float
        The share of the time that a device is there, in (0, 1].
    period : float
        Seconds from one of a device's appearances to the next; each has a phase of its own.
    seed : int
        Of all that.
    """

    seconds: float = 60.0
    spread: float = 0.5
    jitter: float = 0.1
    availability: float = 1.0
    period: float = 86400.0
    seed: int = 0

    def is_available(self, node: int, moment: int) -> bool:
        """Tell whether a device is there at a moment (microseconds)."""
        return self._into_period(node, moment) < self._hours

    def finish(self, node: int, start: int, task: int) -> int:
        """Return when a device is done with its ``task``-th task, in microseconds.

        Parameters
        ----------
        start : int
            When it begins, in microseconds: a moment at which it is there.
        """
        work = self._work(node, task)
        left = self._hours - self._into_period(node, start)
        if work <= left:
            return start + work
        # Work that fills the last hours ends with them, not at the device's next appearance.
        whole, rest = divmod(work - left - 1, self._hours)
        away = self._period - self._hours
        return start + left + away + whole * self._period + rest + 1

    def next_appearance(self, node: int, moment: int) -> int:
        """Return the first moment from ``moment`` on at which a device is there (microseconds)."""
        if self.is_available(node, moment):
            return moment
        return moment + self._period - self._into_period(node, moment)

    # Whole microseconds, so that a device is there at the very moment at which it appears.
    @property
    def _period(self) -> int:
        return max(1, round(self.period * MICROSECONDS))

    @property
    def _hours(self) -> int:
        return max(1, round(self.availability * self._period))

    def _work(self, node: int, task: int) -> int:
        exponent = self.spread * self._normal("speed", node)
        exponent += self.jitter * self._normal("task", node, task)
        return max(1, round(self.seconds * math.exp(exponent) * MICROSECONDS))

    def _normal(self, *parts: int | str) -> float:
        return float(np.random.default_rng(derive_seed(self.seed, *parts)).standard_normal())

    def _into_period(self, node: int, moment: int) -> int:
        """Return how long ago the device's period began."""
        return (moment + derive_seed(self.seed, "phase", node)) % self._period
