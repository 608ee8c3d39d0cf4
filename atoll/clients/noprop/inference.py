"""Inference: from noise to the label, block by block.

What blocks need of the images is computed first, each block alone; only the small part that
takes z is sequential. No label is used.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from atoll.clients.noprop.blocks import Block
from atoll.clients.noprop.diffusion import evenly, route, transition
from atoll.clients.noprop.network import Design, SharedPart
from atoll.clients.noprop.noise_schedule import LearnedSchedule
from atoll.clients.noprop.settings import ContinuousSettings
from atoll.randomness import derive_seed

# Maps a function over argument tuples, results in order: builtin-like, or over workers.
Map = Callable[[Callable[..., Any], Sequence[tuple[Any, ...]]], list[Any]]


@dataclass(frozen=True)
class Noise:
    """Where the noise of an inference comes from: each step's depends on its place alone.

    Attributes
    ----------
    seed : int
        The run's seed.
    repetition : int
        Which of several stochastic runs.
    first : int
        The place of the batch's first example.
    """

    seed: int
    repetition: int = 0
    first: int = 0

    def draw(self, step: int, shape: Sequence[int]) -> Tensor:
        """Return standard normal noise for a step; 0 is that of z_0."""
        seed = derive_seed(self.seed, "inference", self.repetition, self.first, step)
        return torch.randn(tuple(shape), generator=torch.Generator().manual_seed(seed))


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
        How many steps: DT uses so many of its blocks, evenly spread; CT and FM cut [0, 1] into so
        many. By default what ``[model]`` says.

    Raises
    ------
    ValueError
        If no block is there, or DT has fewer blocks than steps.
    """
    if design.variant == "dt":
        return _discrete_plan(design, available, steps)
    settings = design.settings
    assert isinstance(settings, ContinuousSettings)
    if not available:
        raise ValueError("no block is there")
    count, blocks = steps or settings.steps, design.blocks
    times = [place / count for place in range(count + 1)]
    owners = [min(int(time * blocks), blocks - 1) for time in times[:-1]]
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
    precise = copy.deepcopy(schedule).double()
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
    """Labels images with the blocks that are there.

    Parameters
    ----------
    design, shared
        The network's.
    blocks : Mapping[int, Block]
        By place, from 0; blocks that are missing are jumped over.
    steps : int, optional
        As for :func:`plan`.
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
        """Return what the blocks in use need of the images."""
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
        return self._moved(step, self._prediction(step, features, z), z, noise)

    def _prediction(self, step: Step, features: Tensor, z: Tensor) -> Tensor:
        """Return what the block says: the denoised embedding, or FM's velocity."""
        time = None if step.time is None else torch.tensor([step.time]).to(z)
        logits = self._blocks[step.block].logits(features, z, time)
        weights = logits if self._design.variant == "fm" else logits.softmax(-1)
        return weights @ self._shared.embedding

    def _moved(self, step: Step, prediction: Tensor, z: Tensor, noise: Noise | None) -> Tensor:
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
        return self._shared.read(z)

    def exits(self, features: Mapping[int, Tensor], noise: Noise) -> Iterator[Tensor]:
        """Yield the logits of an early exit after each step, noise-free.

        An exit jumps from the step's level to the last one by the same formula.
        """
        z = self.first_latents(len(next(iter(features.values()))), noise)
        last = self.plan[-1].end
        for step in self.plan:
            said = self._prediction(step, features[step.block], z)
            jump = Step(step.number, step.block, step.time, step.start, last)
            yield self._shared.read(self._moved(jump, said, z, None))
            z = self._moved(step, said, z, None)


def probabilities(
    inference: Inference, features: Mapping[int, Tensor], noise: Sequence[Noise]
) -> dict[str, Tensor]:
    """Return the labels' probabilities by each way of inference.

    Parameters
    ----------
    inference : Inference
        The network.
    features : Mapping[int, Tensor]
        From :meth:`Inference.features`.
    noise : Sequence[Noise]
        One a stochastic run; the first also draws z_0 of the noise-free one.

    Returns
    -------
    dict[str, Tensor]
        "mean": without noise, shape (n, classes). "stochastic": shape (runs, n, classes).
        "mean_of_runs": the stochastic runs' mean. The readings are probabilities by softmax.
    """
    runs = torch.stack(
        [inference.logits(features, one, stochastic=True).softmax(-1) for one in noise]
    )
    return {
        "mean": inference.logits(features, noise[0]).softmax(-1),
        "stochastic": runs,
        "mean_of_runs": runs.mean(0),
    }
