"""Step-size schedules of attacks, as factors of the first step size."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal

# Maps (step, steps) to a factor; steps count from 0.
Schedule = Callable[[int, int], float]
ScheduleName = Literal["constant", "step", "cosine", "ramp"]


def constant(step: int, steps: int) -> float:
    """Return 1."""
    return 1.0


def thirds_of_eight(step: int, steps: int) -> float:
    """Return 1, and a tenth less after each of 3/8, 5/8 and 7/8 (Geiping et al., 2020)."""
    return 0.1 ** sum(step >= steps * share for share in (0.375, 0.625, 0.875))


def cosine(step: int, steps: int, warmup: int = 50, last: float = 0.0) -> float:
    """Rise evenly over ``warmup`` steps, then fall along a cosine to ``last``."""
    if step < warmup < steps:
        return (step + 1) / (warmup + 1)
    start = warmup if warmup < steps else 0
    progress = (step - start) / max(1, steps - start)
    return last + (1 - last) * (1 + math.cos(math.pi * progress)) / 2


def cosine_to_a_tenth(step: int, steps: int) -> float:
    """Fall along a cosine from 1 to 0.1 (ROG; Yue et al., 2023)."""
    return cosine(step, steps, warmup=0, last=0.1)


def ramp(step: int, steps: int) -> float:
    """Rise over the first 5 %, stay, fall along a cosine over the last 75 % (StyleGAN's; GIFD).

    With t = step / steps it is min(1, t / 0.05) (1 - cos(pi min(1, (1 - t) / 0.75))) / 2.
    """
    done = step / max(1, steps)
    fall = 0.5 - 0.5 * math.cos(math.pi * min(1.0, (1.0 - done) / 0.75))
    return fall * min(1.0, done / 0.05)


SCHEDULES: dict[ScheduleName, Schedule] = {
    "constant": constant,
    "step": thirds_of_eight,
    "cosine": cosine,
    "ramp": ramp,
}
