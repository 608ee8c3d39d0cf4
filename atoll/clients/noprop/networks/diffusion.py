"""Diffusion of NoProp's latents: signal levels, and the transition between two of them.

Time runs from noise to label. A latent at level ``alpha_bar`` is
``z ~ N(sqrt(alpha_bar) u, (1 - alpha_bar) I)``, with ``u`` the label's embedding; ``alpha_bar``
grows along the blocks. All arithmetic is in float64.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

NoiseSchedule = Literal["cosine", "linear"]

# The cosine's offset, which keeps the last level below 1 (Nichol and Dhariwal, 2021).
OFFSET = 0.008
# The linear schedule's last level; at 1 the last weight would be infinite.
LAST_LINEAR = 0.9999


def signal_levels(steps: int, schedule: NoiseSchedule = "cosine") -> list[float]:
    """Return ``alpha_bar_0 .. alpha_bar_T``, growing from 0 to nearly 1.

    The paper says "fixed cosine" without a formula; ours is ``cos^2(pi/2 (tau + s) / (1 + s))``
    with ``tau = 1 - t/T`` and ``s = 0.008``, not normalised.

    Parameters
    ----------
    steps : int
        T, at least 1.
    schedule : "cosine" or "linear"
        How they grow.

    Raises
    ------
    ValueError
        If there are fewer than 1 steps.
    """
    if steps < 1:
        raise ValueError(f"steps = {steps}: expected at least 1")
    if schedule == "linear":
        return [LAST_LINEAR * step / steps for step in range(steps + 1)]
    remaining = [1 - step / steps for step in range(steps + 1)]
    levels = [math.cos(math.pi / 2 * (tau + OFFSET) / (1 + OFFSET)) ** 2 for tau in remaining]
    # cos(pi/2) is 6e-17 in floating point; there is no signal at all in z_0.
    return [0.0, *levels[1:]]


def signal_to_noise(level: float) -> float:
    """Return ``alpha_bar / (1 - alpha_bar)``."""
    return level / (1 - level)


@dataclass(frozen=True)
class Transition:
    """``z_r = a u_hat + b z_s + sqrt(c) noise``: the step between two levels.

    Attributes
    ----------
    a, b, c : float
        The coefficients of the paper's Eq. 3, for any two levels.
    """

    a: float
    b: float
    c: float


def transition(start: float, end: float) -> Transition:
    """Return the posterior ``q(z_r | z_s, u)`` between the levels ``start`` and ``end``.

    For neighbouring levels these are the paper's a_t, b_t and c_t; for others, they jump over
    the blocks between (a failed layer, an early exit, fewer steps). They satisfy
    ``a + b sqrt(start) = sqrt(end)``, ``b^2 (1 - start) + c = 1 - end`` and
    ``a^2 / c = SNR(end) - SNR(start)``.

    Parameters
    ----------
    start, end : float
        ``alpha_bar`` before and after, ``0 <= start < end < 1``.

    Raises
    ------
    ValueError
        If the levels are not in this order: noise grows the wrong way.
    """
    if not 0.0 <= start < end < 1.0:
        raise ValueError(f"from alpha_bar {start} to {end}: expected 0 <= start < end < 1")
    alpha = start / end
    # 1 - start/end loses digits where the levels are close.
    lost = (end - start) / end
    return Transition(
        a=math.sqrt(end) * lost / (1 - start),
        b=math.sqrt(alpha) * (1 - end) / (1 - start),
        c=(1 - end) * lost / (1 - start),
    )


def loss_weights(levels: Sequence[float], eta: float, cap: float | None = None) -> list[float]:
    """Return the weight of each block's squared error: ``T/2 eta (SNR(t) - SNR(t-1))``.

    Parameters
    ----------
    levels : Sequence[float]
        ``alpha_bar_0 .. alpha_bar_T``.
    eta : float
        The paper's hyper-parameter.
    cap : float, optional
        The largest difference of signal-to-noise ratios that is used: the last one is 6,399 with
        the cosine and ten steps, 250 times that before it.
    """
    ratios = [signal_to_noise(level) for level in levels]
    steps = len(levels) - 1
    differences = [after - before for before, after in itertools.pairwise(ratios)]
    if cap is not None:
        differences = [min(difference, cap) for difference in differences]
    return [steps / 2 * eta * difference for difference in differences]


def prior_divergence(level: float, squared_norm: float, dimension: int) -> float:
    """Return ``KL(q(z_0 | y) || N(0, I))`` for an embedding of that squared norm.

    ``(alpha_bar |u|^2 - d alpha_bar - d ln(1 - alpha_bar)) / 2``: 0 where z_0 is pure noise.
    """
    return 0.5 * (level * squared_norm - dimension * level - dimension * math.log1p(-level))


def route(active: Sequence[int], levels: Sequence[float]) -> list[tuple[int, float, float]]:
    """Return the steps through some of the blocks, each with the levels it goes between.

    A block keeps the input level that it was trained on, if any block before it brings the
    latent there; the step before a gap jumps over it, and the last one ends at the last level.

    Parameters
    ----------
    active : Sequence[int]
        Blocks from 1 to T, growing; block ``t`` takes latents of level ``t - 1``.
    levels : Sequence[float]
        ``alpha_bar_0 .. alpha_bar_T``.

    Returns
    -------
    list[tuple[int, float, float]]
        Per step: the block, ``alpha_bar`` before and after.

    Raises
    ------
    ValueError
        If there is no block, or they are not in order.
    """
    last = len(levels) - 1
    ordered = sorted(set(active))
    if not ordered or list(active) != ordered or ordered[0] < 1 or ordered[-1] > last:
        raise ValueError(f"blocks {list(active)}: expected some of 1 to {last}, in order")
    ends = [levels[block - 1] for block in ordered[1:]] + [levels[-1]]
    starts = [levels[0], *ends[:-1]]
    return list(zip(ordered, starts, ends, strict=True))


def evenly(count: int, of: int) -> list[int]:
    """Return ``count`` of the blocks 1 to ``of``, evenly spread, the first among them.

    Raises
    ------
    ValueError
        If there are fewer than 1 or more than ``of``.
    """
    if not 1 <= count <= of:
        raise ValueError(f"{count} of {of} blocks: expected 1 to {of}")
    return [1 + place * of // count for place in range(count)]
