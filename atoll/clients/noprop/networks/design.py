"""Design of a NoProp network: settings to modules, the shared part, and a part of its blocks."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import cast

import torch
from torch import Tensor, nn

from atoll.clients.data.inputs.base import Inputs
from atoll.clients.data.inputs.images import ImageInputs, images_of
from atoll.clients.noprop.networks.blocks import BLOCK_SIZES, Block
from atoll.clients.noprop.networks.diffusion import signal_levels
from atoll.clients.noprop.networks.embeddings import initial_embedding
from atoll.clients.noprop.networks.noise_schedule import LearnedSchedule
from atoll.clients.noprop.noprop_settings import (
    VARIANTS,
    ContinuousSettings,
    DiscreteSettings,
    NoPropSettings,
    Variant,
    parse_model,
)
from atoll.clients.settings import ModelSettings
from atoll.errors import InvalidExperimentError

DIMENSION = 20


@dataclass(frozen=True)
class Design:
    """Design of a network, before any module is made.

    Attributes
    ----------
    variant : "dt", "ct" or "fm"
        Which NoProp it is.
    settings : NoPropSettings
        ``[model]``.
    inputs : Inputs
        What the network is given.
    classes : int
        How many there are.
    """

    variant: Variant
    settings: NoPropSettings
    inputs: Inputs
    classes: int

    @classmethod
    def of(
        cls, model: ModelSettings, inputs: Inputs | tuple[int, int, int], classes: int
    ) -> Design:
        """Return the design that ``[model]`` asks for; a shape stands for images.

        Raises
        ------
        InvalidExperimentError
            If a key or a value of ``[model]`` is wrong, or is of images and there are none.
        """
        settings = parse_model(model, classes)
        given = inputs if isinstance(inputs, Inputs) else images_of(inputs)
        if settings.embedding == "prototype" and not isinstance(given, ImageInputs):
            raise InvalidExperimentError(
                f"model.embedding = 'prototype': prototypes are images, and the data are "
                f"{given.described}; expected 'one-hot', 'orthogonal' or 'learned'"
            )
        return cls(VARIANTS[model.name.casefold()], settings, given, classes)

    @property
    def dimension(self) -> int:
        """The width of the embeddings."""
        if self.settings.embedding == "one-hot":
            return self.classes
        if self.settings.embedding == "prototype":
            return self.inputs.numbers(1)
        return self.settings.dimension or max(DIMENSION, self.classes)

    @property
    def blocks(self) -> int:
        """The number of blocks: DT's steps, or the intervals of CT and FM."""
        settings = self.settings
        if isinstance(settings, DiscreteSettings):
            return settings.steps
        return cast(ContinuousSettings, settings).blocks

    @cached_property
    def levels(self) -> list[float]:
        """DT's ``alpha_bar_0 .. alpha_bar_T``."""
        settings = cast(DiscreteSettings, self.settings)
        return signal_levels(settings.steps, settings.schedule)

    @property
    def is_shared_part_trained_by_blocks(self) -> bool:
        """Whether blocks train the shared part, so that their copies must be averaged.

        With a fixed embedding DT and FM share nothing that is trained, and DT's head learns from
        labels alone.
        """
        return self.variant == "ct" or self.settings.embedding_is_trained

    @property
    def has_head(self) -> bool:
        """Whether there is a linear layer on z_T: DT and CT read the label from it.

        FM reads the nearest embedding; where it trains embeddings, the layer keeps them apart.
        """
        return self.variant != "fm" or self.settings.embedding_is_trained

    def make_block(self) -> Block:
        """Return a block; its parameters are drawn from the global generator."""
        settings, size = self.settings, BLOCK_SIZES[self.settings.block]
        return Block(
            self.inputs,
            self.classes,
            self.dimension,
            size,
            settings.norm,
            timed=self.variant != "dt",
            label_image=settings.embedding == "prototype",
            dropout=size.dropout if settings.dropout is None else settings.dropout,
            precision=getattr(torch, settings.precision),
        )

    def make_shared_part(self) -> SharedPart:
        """Return the shared part; its parameters are drawn from the global generator."""
        return SharedPart(self)


class SharedPart(nn.Module):
    """Modules that the blocks share: the embedding, the head, and CT's noise schedule.

    Attributes
    ----------
    embedding : Tensor
        Shape (classes, dimension): a buffer, or a parameter where it is trained.
    head : nn.Linear or None
        Reads the label from z_T; FM's is of training only, and keeps classes apart.
    schedule : LearnedSchedule or None
        CT's.
    """

    embedding: Tensor

    def __init__(self, design: Design) -> None:
        super().__init__()
        kind = design.settings.embedding
        rows = initial_embedding(kind, design.classes, design.dimension, torch.default_generator)
        if design.settings.embedding_is_trained:
            self.embedding = nn.Parameter(rows)
        else:
            self.register_buffer("embedding", rows)
        self.head = _nearest(rows) if design.has_head else None
        self._reads_nearest = design.variant == "fm"
        self.schedule = LearnedSchedule() if design.variant == "ct" else None

    def set_embedding(self, rows: Tensor) -> None:
        """Begin with these embeddings, of shape (classes, dimension)."""
        with torch.no_grad():
            self.embedding.copy_(rows)
        if self.head is not None:
            self.head = _nearest(rows)

    def read(self, z: Tensor) -> Tensor:
        """Return the logits of the label that latents of the last level hold.

        Without a head, and in FM, they are minus the squared distances to the embeddings.
        """
        if self.head is not None and not self._reads_nearest:
            return self.head(z)  # type: ignore[no-any-return]
        return -(z.unsqueeze(1) - self.embedding).square().sum(-1)

    def least_distance(self) -> float:
        """Return the least distance between two classes' embeddings; 0 if two have collapsed."""
        if len(self.embedding) < 2:
            return 0.0
        return float(torch.nn.functional.pdist(self.embedding.detach().double()).min())


def _nearest(rows: Tensor) -> nn.Linear:
    """Return a linear layer whose largest logit is that of the nearest embedding.

    The head begins so: else its first epochs would hide what the blocks can do.
    """
    head = nn.Linear(rows.shape[1], rows.shape[0])
    with torch.no_grad():
        head.weight.copy_(rows)
        head.bias.copy_(-0.5 * rows.square().sum(1))
    return head


class PartialNetwork(nn.Module):
    """Some of a network's blocks and the shared part, under the names that they have in it.

    Parameters
    ----------
    design : Design
        The whole network's.
    layers : Iterable[int]
        The blocks, from 0.
    """

    def __init__(self, design: Design, layers: Iterable[int]) -> None:
        super().__init__()
        self.design = design
        self.layers = tuple(sorted(layers))
        self.shared = design.make_shared_part()
        self.blocks = nn.ModuleDict({str(index): design.make_block() for index in self.layers})

    def block(self, index: int) -> Block:
        """Return a block by its place in the whole network."""
        return cast(Block, self.blocks[str(index)])
