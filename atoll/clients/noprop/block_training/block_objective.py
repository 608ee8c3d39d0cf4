"""Objective of a block: the paper's losses, one block at a time.

A block sees the raw image and a noised embedding of the true label; it never sees what another
block computed.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from atoll.clients.noprop.networks.blocks import Block
from atoll.clients.noprop.networks.design import Design, SharedPart
from atoll.clients.noprop.networks.diffusion import loss_weights, prior_divergence
from atoll.clients.noprop.networks.time_intervals import interval_edges
from atoll.clients.noprop.noprop_settings import (
    ContinuousTimeSettings,
    DiscreteSettings,
    FlowMatchingSettings,
)

# The cap of the SNR's differences where the embedding is trained: the last weight would pull all
# classes together.
TRAINED_EMBEDDING_CAP = 40.0

# What a batch's loss is random in, by name: of each example standard normal numbers, or TIMES.
Draws = Mapping[str, Tensor]
# The latent's noise; that of the latent from which the label is read; FM's around the line.
NOISE, LABEL_NOISE, SPREAD = "noise", "label noise", "spread"
# Uniform in [0, 1): where in the block's interval a time is.
TIMES = "times"


class BlockObjective:
    """The loss of one block.

    Parameters
    ----------
    design : Design
        The network's.
    index : int
        The block, from 0.
    """

    def __init__(self, design: Design, index: int) -> None:
        self._design = design
        self._index = index
        if isinstance(design.settings, DiscreteSettings):
            settings = design.settings
            cap = settings.snr_cap
            if cap is None and settings.embedding_is_trained:
                cap = TRAINED_EMBEDDING_CAP
            weights = loss_weights(design.levels, settings.eta, cap)
            self._weight = weights[index] if settings.snr_weight else 1.0

    def draw(self, shared: SharedPart, count: int, generator: torch.Generator) -> Draws:
        """Return the random numbers that the loss of ``count`` examples depends on.

        Parameters
        ----------
        shared : SharedPart
            Whose embedding says the shape of a latent.
        count : int
            Examples.
        generator : torch.Generator
            Draws the noise and the times.
        """
        design, draws = self._design, dict[str, Tensor]()
        if design.variant == "ct":
            draws[TIMES] = torch.rand(count, generator=generator)
        draws[NOISE] = draw_noise(shared, count, generator)
        if design.variant == "fm":
            draws[TIMES] = torch.rand(count, generator=generator)
            if _sigma(design):
                draws[SPREAD] = draw_noise(shared, count, generator)
        elif design.is_shared_part_trained_by_blocks:
            draws[LABEL_NOISE] = draw_noise(shared, count, generator)
        return draws

    def __call__(
        self, block: Block, shared: SharedPart, images: Tensor, labels: Tensor, draws: Draws
    ) -> tuple[Tensor, Tensor]:
        """Return a batch's loss, and the mean squared error that is its main part.

        Parameters
        ----------
        block, shared
            The block and what it shares with others.
        images : Tensor
            Shape (n, channels, height, width).
        labels : Tensor
            int64 of shape (n,), or probabilities of shape (n, classes).
        draws : Draws
            From :meth:`draw`.
        """
        of_variant = {"dt": self._discrete, "ct": self._continuous, "fm": self._flow}
        return of_variant[self._design.variant](block, shared, images, labels, draws)

    def _discrete(
        self, block: Block, shared: SharedPart, images: Tensor, labels: Tensor, draws: Draws
    ) -> tuple[Tensor, Tensor]:
        levels = self._design.levels
        target = _embedded(shared, labels)
        z = noised(target, levels[self._index], draws[NOISE])
        error = _prediction_errors(block(images, z), shared, target).mean()
        loss = self._weight * error
        if self._design.is_shared_part_trained_by_blocks:
            loss = loss + label_loss(self._design, shared, labels, draws[LABEL_NOISE])
            loss = loss + _mean_divergence(levels[0], target)
        return loss, error

    def _continuous(
        self, block: Block, shared: SharedPart, images: Tensor, labels: Tensor, draws: Draws
    ) -> tuple[Tensor, Tensor]:
        settings, schedule = self._design.settings, shared.schedule
        assert isinstance(settings, ContinuousTimeSettings)
        assert schedule is not None
        target = _embedded(shared, labels)
        time = self._times(shared, draws).to(target)
        level = schedule.level(time).unsqueeze(1)
        if not settings.snr_weight:
            # The schedule would make the error small by leaving noise to an instant.
            level = level.detach()
        z = level.sqrt() * target + (1 - level).sqrt() * draws[NOISE]
        errors = _prediction_errors(block(images, z, time), shared, target)
        weight: Tensor | float = 1.0
        if settings.snr_weight:
            _, growth = schedule.snr_and_derivative(time)
            weight = growth if settings.snr_cap is None else growth.clamp(max=settings.snr_cap)
        loss = 0.5 * settings.eta * (weight * errors).mean()
        first = schedule.level(torch.zeros((), dtype=target.dtype, device=target.device))
        loss = loss + label_loss(self._design, shared, labels, draws[LABEL_NOISE])
        return loss + _mean_divergence(first, target), errors.mean()

    def _flow(
        self, block: Block, shared: SharedPart, images: Tensor, labels: Tensor, draws: Draws
    ) -> tuple[Tensor, Tensor]:
        settings = self._design.settings
        assert isinstance(settings, FlowMatchingSettings)
        target = _embedded(shared, labels)
        start = draws[NOISE]
        time = self._times(shared, draws).to(target)
        at = time.unsqueeze(1)
        z = at * target + (1 - at) * start
        if settings.sigma:
            z = z + settings.sigma * draws[SPREAD]
        velocity = block(images, z, time) @ shared.embedding
        error = (velocity - (target - start)).square().sum(1).mean()
        if shared.head is None:
            return error, error
        # The end that the velocity points to must tell the classes apart, or they would collapse.
        return error + F.cross_entropy(shared.head(z + (1 - at) * velocity), labels), error

    def _times(self, shared: SharedPart, draws: Draws) -> Tensor:
        """Return times from the block's interval."""
        begin, end = interval_edges(self._design, shared)[self._index : self._index + 2]
        return begin + (end - begin) * draws[TIMES]


def label_loss(design: Design, shared: SharedPart, labels: Tensor, noise: Tensor) -> Tensor:
    """Return the cross-entropy of the label read from z_T: it needs no image and no block.

    z_T is drawn from q(z_T | y), so no block has a gradient from it.

    Parameters
    ----------
    labels : Tensor
        As for :class:`BlockObjective`.
    noise : Tensor
        Standard normal, shape (n, dimension).
    """
    target = _embedded(shared, labels)
    if shared.schedule is not None:
        level = shared.schedule.level(torch.ones((), dtype=target.dtype, device=target.device))
        z = level.sqrt() * target + (1 - level).sqrt() * noise
    else:
        z = noised(target, design.levels[-1], noise)
    return F.cross_entropy(shared.read(z), labels)


def draw_noise(shared: SharedPart, count: int, generator: torch.Generator) -> Tensor:
    """Return standard normal noise for ``count`` latents."""
    like = shared.embedding
    # Drawn in main memory on every device: the same noise, whatever trains the block.
    drawn = torch.randn(count, like.shape[1], dtype=like.dtype, generator=generator)
    return drawn.to(like.device)


def _embedded(shared: SharedPart, labels: Tensor) -> Tensor:
    """Return the embeddings of labels, or the mean ones of probabilities of labels."""
    return labels @ shared.embedding if labels.is_floating_point() else shared.embedding[labels]


def _sigma(design: Design) -> float:
    settings = design.settings
    return settings.sigma if isinstance(settings, FlowMatchingSettings) else 0.0


def noised(target: Tensor, level: float, noise: Tensor) -> Tensor:
    """Return ``sqrt(level) target + sqrt(1 - level) noise``."""
    return torch.add(level**0.5 * target, noise, alpha=(1 - level) ** 0.5)


def _prediction_errors(logits: Tensor, shared: SharedPart, target: Tensor) -> Tensor:
    """Return each example's ``|softmax(logits) W - u|^2``."""
    return (logits.softmax(-1) @ shared.embedding - target).square().sum(1)


def _mean_divergence(level: float | Tensor, target: Tensor) -> Tensor:
    """Return the batch's mean of KL(q(z_0 | y) || N(0, I))."""
    squares, dimension = target.square().sum(1).mean(), target.shape[1]
    if isinstance(level, float):
        return squares * (level / 2) + prior_divergence(level, 0.0, dimension)
    return 0.5 * (level * squares - dimension * level - dimension * torch.log1p(-level))
