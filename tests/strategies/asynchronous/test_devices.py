"""Devices' hours against a walk through time in small steps."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from atoll.strategies.asynchronous.devices import Devices

PERIOD = 1000


def time_there(devices: Devices, node: int, start: int, end: int) -> int:
    """Count the microseconds from start to end at which a device is there."""
    return sum(devices.is_available(node, moment) for moment in range(start, end))


@pytest.mark.slow
@settings(max_examples=60)
@given(
    node=st.integers(1, 2**62),
    availability=st.floats(0.01, 1.0),
    seconds=st.integers(1, 3 * PERIOD).map(lambda count: count / 1e6),
    moment=st.integers(0, 5 * PERIOD),
)
@example(node=1, availability=0.01, seconds=0.00085, moment=0)
def test_work_continues_only_while_the_device_is_there(
    node: int, availability: float, seconds: float, moment: int
) -> None:
    devices = Devices(seconds, 0.0, 0.0, availability, period=PERIOD / 1e6)
    start = devices.next_appearance(node, moment)
    assert start == moment or time_there(devices, node, moment, start) == 0
    assert devices.is_available(node, start)
    end = devices.finish(node, start, 0)
    assert time_there(devices, node, start, end) == round(seconds * 1e6)
    assert devices.is_available(node, end - 1)


def test_speeds_are_log_normal_and_each_device_s_own() -> None:
    devices = Devices(60.0, spread=0.5, jitter=0.1, seed=3)
    ends = np.array([[devices.finish(node, 0, task) for task in range(20)] for node in range(400)])
    times = np.log(ends / 1e6)
    assert times.mean() == pytest.approx(np.log(60.0), abs=0.06)
    assert times.mean(1).std() == pytest.approx(0.5, rel=0.1)
    assert times.std(1).mean() == pytest.approx(0.1, rel=0.1)
    assert devices.finish(7, 5, 2) == Devices(60.0, seed=3).finish(7, 5, 2)
    assert devices.finish(7, 5, 2) != Devices(60.0, seed=4).finish(7, 5, 2)
