"""Inference of a NoProp network: from noise to the label, block by block.

The blocks' features of the images are computed first, each block by itself; only the small part
that takes z is sequential. No label is used.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from atoll.clients.noprop.networks.blocks import Block
from atoll.clients.noprop.networks.design import Design, SharedPart
from atoll.clients.noprop.networks.diffusion import evenly, route, transition
from atoll.clients.noprop.networks.noise_schedule import LearnedSchedule
from atoll.clients.noprop.networks.time_intervals import interval_edges
from atoll.clients.noprop.noprop_settings import ContinuousSettings
from atoll.randomness import derive_seed


@dataclass(frozen=True)
class Noise:
    """Noise of an inference: that of each step depends on its place alone.

    Attributes
    ----------
    seed : int
        The run's seed.
    repetition : int
        Index of the stochastic run, from 0.
    first : int
        The place of the batch's first example.

    Examples
    --------
    >>> import torch
    >>> from atoll.clients import Noise
    >>> z = Noise(seed=0).draw(step=0, shape=(4, 10))
    >>> others = Noise(seed=0), Noise(seed=0, repetition=1)
    >>> [torch.equal(z, other.draw(0, (4, 10))) for other in others]
    [True, False]
    """

    seed: int
    repetition: int = 0
    first: int = 0

    def draw(self, step: int, shape: Sequence[int]) -> Tensor:
        """Return standard normal noise for a step; 0 is that of z_0."""
        seed = derive_seed(self.seed, "inference", self.repetition, self.first, step)
        return torch.randn(tuple(shape), generator=torch.Generator().manual_seed(seed))


def noise_of_runs(runs: int, seed: int, place: int) -> list[Noise]:
    """Return the noise of several stochastic runs on a batch that begins at ``place``."""
    return [Noise(seed, run, place) for run in range(runs)]


@dataclass(frozen=True)
class Step:
    """One step of inference.

    Attributes
    ----------
    number : int
        From 1; it decides the noise.
    block : int
        The block, from 0.
    time : float or None
        The time that the block is told (CT and FM).
    start, end : float
        Signal levels before and after; for FM, times.
    """

    number: int
    block: int
    time: float | None
    start: float
    end: float


def plan(
    design: Design, shared: SharedPart, available: Sequence[int], steps: int | None = None
) -> list[Step]:
    """Return the steps from noise to label through the blocks that are there.

    Parameters
    ----------
    design, shared
        The network's.
    available : Sequence[int]
        Blocks from 0, growing; the others are jumped over.
    steps : int, optional
        How many steps: DT uses so many of its blocks, evenly spread; CT and FM take so many, as
        many in each block's interval. By default what ``[model]`` says.

    Raises
    ------
    ValueError
        If no block is there, there are fewer than 1 steps, or DT has fewer blocks than steps.
    """
    if design.variant == "dt":
        return _discrete_plan(design, available, steps)
    settings = design.settings
    assert isinstance(settings, ContinuousSettings)
    if not available:
        raise ValueError("no block is there")
    count, blocks = settings.steps if steps is None else steps, design.blocks
    if count < 1:
        raise ValueError(f"{count} steps: expected at least 1")
    # In whole numbers: 0.29 * 100 is below 29 in floating point.
    owners = [place * blocks // count for place in range(count)]
    edges = interval_edges(design, shared)
    # Each block has as many steps, evenly spread over its interval.
    times = [
        edges[owner] + (edges[owner + 1] - edges[owner]) * (place * blocks % count / count)
        for place, owner in enumerate(owners)
    ]
    kept = [place for place, owner in enumerate(owners) if owner in available]
    if not kept:
        raise ValueError(f"{count} steps pass none of the blocks {list(available)}")
    ends = [times[place] for place in kept[1:]] + [1.0]
    starts = [0.0, *ends[:-1]]
    if shared.schedule is not None:
        starts, ends = _levels(shared.schedule, [starts, ends])
    return [
        Step(number, owners[place], times[place], start, end)
        for number, (place, start, end) in enumerate(zip(kept, starts, ends, strict=True), 1)
    ]


def _levels(schedule: LearnedSchedule, times: list[list[float]]) -> list[list[float]]:
    """Return the signal levels at times, in float64: neighbours must differ, and none be 1."""
    precise = copy.deepcopy(schedule).cpu().double()
    with torch.no_grad():
        levels: list[list[float]] = precise.level(torch.tensor(times).double()).tolist()
    return levels


def _discrete_plan(design: Design, available: Sequence[int], steps: int | None) -> list[Step]:
    active = [index + 1 for index in available]
    if steps is not None:
        active = [active[place - 1] for place in evenly(steps, len(active))]
    return [
        Step(number, block - 1, None, start, end)
        for number, (block, start, end) in enumerate(route(active, design.levels), 1)
    ]


class Inference:
    """Inference of labels through the blocks that are given.

    Parameters
    ----------
    design, shared
        The network's.
    blocks : Mapping[int, Block]
        By place, from 0; blocks that are missing are jumped over.
    steps : int, optional
        As for :func:`plan`.

    Examples
    --------
    >>> import torch
    >>> from atoll.clients import noprop_dt
    >>> inference = noprop_dt((1, 8, 8), 10, block="small", steps=3).inference()
    >>> [(step.number, step.block) for step in inference.plan]
    [(1, 0), (2, 1), (3, 2)]
    """

    def __init__(
        self,
        design: Design,
        shared: SharedPart,
        blocks: Mapping[int, Block],
        steps: int | None = None,
    ) -> None:
        self._design = design
        self._shared = shared
        self._blocks = blocks
        self.plan = plan(design, shared, sorted(blocks), steps)

    def features(self, images: Tensor) -> dict[int, Tensor]:
        """Return the features of images for the blocks in use."""
        used = sorted({step.block for step in self.plan})
        return {index: self._blocks[index].features(images) for index in used}

    def first_latents(self, count: int, noise: Noise) -> Tensor:
        """Return z_0."""
        return noise.draw(0, (count, self._design.dimension)).to(self._shared.embedding)

    def advance(self, step: Step, features: Tensor, z: Tensor, noise: Noise | None) -> Tensor:
        """Return the latents after a step.

        Parameters
        ----------
        step : Step
            One of :attr:`plan`.
        features : Tensor
            Those of the step's block.
        z : Tensor
            The latents before it.
        noise : Noise or None
            None leaves the step's noise out.
        """
        return self.moved(step, self.prediction(step, features, z), z, noise)

    def prediction(self, step: Step, features: Tensor, z: Tensor) -> Tensor:
        """Return the block's prediction: the denoised embedding, or FM's velocity."""
        time = None if step.time is None else torch.tensor([step.time]).to(z)
        logits = self._blocks[step.block].logits(features, z, time)
        weights = logits if self._design.variant == "fm" else logits.softmax(-1)
        return weights @ self._shared.embedding

    def moved(self, step: Step, prediction: Tensor, z: Tensor, noise: Noise | None) -> Tensor:
        """Return the latents after a step with the block's ``prediction``."""
        if self._design.variant == "fm":
            return z + (step.end - step.start) * prediction
        moved = transition(step.start, step.end)
        after = moved.a * prediction + moved.b * z
        if noise is not None:
            after = after + moved.c**0.5 * noise.draw(step.number, z.shape).to(z)
        return after

    def logits(
        self, features: Mapping[int, Tensor], noise: Noise, *, stochastic: bool = False
    ) -> Tensor:
        """Return the label's logits after all steps.

        Parameters
        ----------
        features : Mapping[int, Tensor]
            From :meth:`features`.
        noise : Noise
            Draws z_0, and the steps' noise where they have one.
        stochastic : bool
            Whether steps have noise (the paper's inference), or none.
        """
        z = self.first_latents(len(next(iter(features.values()))), noise)
        for step in self.plan:
            z = self.advance(step, features[step.block], z, noise if stochastic else None)
        return self.read(z)

    def read(self, z: Tensor) -> Tensor:
        """Return the logits that latents of the last level hold."""
        return self._shared.read(z)

    def exit(self, step: Step, prediction: Tensor, z: Tensor) -> Tensor:
        """Return the logits of an exit at a step: a jump to the last level by the same formula."""
        jump = replace(step, end=self.plan[-1].end)
        return self._shared.read(self.moved(jump, prediction, z, None))


# What an inference in several ways has come to: latents by way, and early exits' logits.
States = dict[str, Tensor]
MEAN, RUNS, EXITS = "mean", "runs", "exits"


class AllWays:
    """Inference without noise, in several stochastic runs, and with an exit after each step.

    All share what blocks need of the images. The state after a step is a few small tensors, so
    the steps can be taken by different processes.

    Parameters
    ----------
    inference : Inference
        The network.
    noise : Sequence[Noise]
        One a stochastic run; the first also draws z_0 of the noise-free one.
    """

    def __init__(self, inference: Inference, noise: Sequence[Noise]) -> None:
        self._inference = inference
        self._noise = list(noise)

    def begin(self, count: int) -> States:
        """Return the states of ``count`` examples before the first step."""
        first = [self._inference.first_latents(count, noise) for noise in self._noise]
        return {MEAN: first[0], RUNS: torch.stack(first)}

    def advance(self, step: Step, features: Tensor, states: States) -> States:
        """Return the states after a step; DT's have the logits of an exit too."""
        inference = self._inference
        said = inference.prediction(step, features, states[MEAN])
        after = {
            MEAN: inference.moved(step, said, states[MEAN], None),
            RUNS: torch.stack(
                [
                    inference.advance(step, features, z, noise)
                    for z, noise in zip(states[RUNS], self._noise, strict=True)
                ]
            ),
        }
        if step.time is None:
            left = inference.exit(step, said, states[MEAN]).unsqueeze(0)
            after[EXITS] = torch.cat([states[EXITS], left]) if EXITS in states else left
        return after

    def end(self, states: States) -> dict[str, Tensor]:
        """Return log-probabilities of the labels by way of inference.

        "mean": without noise, shape (n, classes). "stochastic": the first run, the same shape.
        "mean_of_runs": of the runs' mean probabilities. "stochastic_runs": (runs, n, classes).
        "exits": with an exit after each step, (steps, n, classes).
        """
        runs = self._inference.read(states[RUNS].flatten(0, 1)).log_softmax(-1)
        runs = runs.view(*states[RUNS].shape[:2], -1)
        ways = {
            "mean": self._inference.read(states[MEAN]).log_softmax(-1),
            "stochastic": runs[0],
            "mean_of_runs": runs.exp().mean(0).log(),
            "stochastic_runs": runs,
        }
        if EXITS in states:
            ways["exits"] = states[EXITS].log_softmax(-1)
        return ways

    def run(self, features: Mapping[int, Tensor]) -> dict[str, Tensor]:
        """Return :meth:`end` after all steps, in this process."""
        states = self.begin(len(next(iter(features.values()))))
        for step in self._inference.plan:
            states = self.advance(step, features[step.block], states)
        return self.end(states)
