"""Training units: the modules of a run that are trained apart, blocks, head and baselines.

A unit is a module and a loss. It depends on no other unit; what units share is in the shared part
that each is given.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import replace
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from atoll.clients.noprop.block_training.block_objective import (
    LABEL_NOISE,
    BlockObjective,
    Draws,
    draw_noise,
    label_loss,
)
from atoll.clients.noprop.networks.baseline_networks import ChainedBlocks, plain_cnn
from atoll.clients.noprop.networks.blocks import Block
from atoll.clients.noprop.networks.design import Design, SharedPart
from atoll.randomness import derive_seed

HEAD, CHAIN, CNN, BLOCK, MEMBER = "head", "chain", "cnn", "block", "member"
BASELINES = ("chain", "cnn", "ensemble")


class TrainingUnit(ABC):
    """A module that is trained by itself.

    Attributes
    ----------
    module : nn.Module
        All that is trained, and its buffers: what a checkpoint of the unit holds.
    """

    # Whether the loss looks at images at all.
    uses_images: ClassVar[bool] = True
    module: nn.Module

    @property
    def fewest(self) -> int:
        """The examples that a batch must have: of one, BatchNorm could make nothing."""
        norms = nn.modules.batchnorm._BatchNorm
        return 2 if any(isinstance(inner, norms) for inner in self.module.modules()) else 1

    def draw(self, count: int, generator: torch.Generator) -> Draws:
        """Return the random numbers of the loss of ``count`` examples; none by default."""
        return {}

    @abstractmethod
    def loss(self, images: Tensor, labels: Tensor, draws: Draws) -> tuple[Tensor, Tensor]:
        """Return a batch's loss, and the value that is reported as the loss.

        Parameters
        ----------
        images : Tensor
            Shape (n, channels, height, width).
        labels : Tensor
            int64 of shape (n,), or probabilities of shape (n, classes).
        draws : Draws
            From :meth:`draw`.
        """


class BlockUnit(TrainingUnit):
    """One block; with a trained shared part, a copy of that too.

    Parameters
    ----------
    design : Design
        The network's.
    index : int
        The block, from 0.
    block, shared
        The block, and what it shares with others.
    """

    def __init__(self, design: Design, index: int, block: Block, shared: SharedPart) -> None:
        self._block, self._shared = block, shared
        self._objective = BlockObjective(design, index)
        self.module = nn.ModuleDict({"block": block})
        if design.is_shared_part_trained_by_blocks:
            self.module["shared"] = shared

    def draw(self, count: int, generator: torch.Generator) -> Draws:
        """Draw noise and times."""
        return self._objective.draw(self._shared, count, generator)

    def loss(self, images: Tensor, labels: Tensor, draws: Draws) -> tuple[Tensor, Tensor]:
        """Return the block's loss, and its mean squared error."""
        return self._objective(self._block, self._shared, images, labels, draws)


class HeadUnit(TrainingUnit):
    """DT's head where the embedding is fixed: it learns from labels alone."""

    uses_images = False

    def __init__(self, design: Design, shared: SharedPart) -> None:
        self._design = design
        self._shared = shared
        self.module = nn.ModuleDict({"shared": shared})

    def draw(self, count: int, generator: torch.Generator) -> Draws:
        """Draw the noise of z_T."""
        return {LABEL_NOISE: draw_noise(self._shared, count, generator)}

    def loss(self, images: Tensor, labels: Tensor, draws: Draws) -> tuple[Tensor, Tensor]:
        """Return the cross-entropy of the label read from z_T."""
        loss = label_loss(self._design, self._shared, labels, draws[LABEL_NOISE])
        return loss, loss


class ClassifierUnit(TrainingUnit):
    """A baseline that is trained by the cross-entropy of its logits."""

    def __init__(self, module: nn.Module) -> None:
        self.module = module

    def loss(self, images: Tensor, labels: Tensor, draws: Draws) -> tuple[Tensor, Tensor]:
        """Return the mean cross-entropy."""
        loss = F.cross_entropy(self.module(images), labels)
        return loss, loss


def block_names(design: Design) -> list[str]:
    """Return the names of a network's blocks: "block-01" and on."""
    return [f"{BLOCK}-{index + 1:02d}" for index in range(design.blocks)]


def unit_names(design: Design) -> list[str]:
    """Return the names of all units that a network is trained in."""
    has_own_head = design.variant == "dt" and not design.is_shared_part_trained_by_blocks
    return [*([HEAD] if has_own_head else []), *block_names(design)]


def member_names(design: Design) -> list[str]:
    """Return the names of the ensemble's members: as many as the network has blocks."""
    return [f"{MEMBER}-{index + 1:02d}" for index in range(design.blocks)]


def baseline_names(baseline: str, design: Design) -> list[str]:
    """Return the names of a baseline's units."""
    return member_names(design) if baseline == "ensemble" else [baseline]


def index_of(name: str) -> int:
    """Return the place, from 0, of a block or member by its name."""
    return int(name.rpartition("-")[2]) - 1


def make_shared_part(design: Design, seed: int) -> SharedPart:
    """Return the shared part as every unit of the run begins with it."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(derive_seed(seed, "shared part"))
        return design.make_shared_part()


def make_unit(name: str, design: Design, shared: SharedPart, seed: int) -> TrainingUnit:
    """Return a unit with its initial parameters, which depend on the seed and its name alone.

    Parameters
    ----------
    name : str
        One of :func:`unit_names` or :func:`baseline_names`.
    design : Design
        The network's.
    shared : SharedPart
        What it shares with other units; it may be trained.
    seed : int
        The run's seed.
    """
    kind = name.partition("-")[0]
    if kind == HEAD:
        return HeadUnit(design, shared)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(derive_seed(seed, "initial parameters", name))
        if kind == CHAIN:
            return ClassifierUnit(ChainedBlocks(design))
        if kind == CNN:
            return ClassifierUnit(plain_cnn(design))
        if kind == MEMBER:
            design = _with_fixed_embedding(design)
            # A first block, which sees noise in place of a label.
            return BlockUnit(design, 0, design.make_block(), design.make_shared_part())
        return BlockUnit(design, index_of(name), design.make_block(), shared)


def _with_fixed_embedding(design: Design) -> Design:
    settings = design.settings.model_copy(update={"embedding": "one-hot", "dimension": None})
    return replace(design, settings=settings)
