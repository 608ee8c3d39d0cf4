"""LOKI: images of every client read off the sum of their updates (Zhao et al., S&P 2024).

The server sends models of :mod:`atoll.clients.models.malicious.loki_block`, each client its own
kernels. In the summed update the columns of a client's set hold the gradients of its images alone,
and a row those of the images whose brightness lies in its bin: one image, if the bin is fine
enough.

The bias's gradient is that of all clients together, so what an image was multiplied by is found
from its brightness, which the bin says. The released code takes the image's least and largest value
for 0 and 1 in its place.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from atoll.attacks.base.attack import Reconstruction, SeparateAttack
from atoll.attacks.methods.exact.imprint_attack import first_images
from atoll.attacks.threat.capabilities import Capability
from atoll.attacks.threat.observation import Observation
from atoll.clients.models.malicious.loki_block import LokiBlock
from atoll.clients.ranges import Share
from atoll.errors import AttackError


class LOKI(SeparateAttack):
    """Each row and set of the encoder's change is an image, times a number; no optimisation.

    Attributes
    ----------
    noise : float
        A row that changes by less than this share of the largest change holds no image.
    margin : float
        How far outside [0, 1] an image may lie. Two images in one bin often do not pass.
    """

    noise: Share = 1e-3
    margin: Share = 0.05

    needs = frozenset({Capability.CHOOSES_MODEL})

    def check(self, observation: Observation) -> None:
        """Refuse a model without LOKI's block."""
        block_of(observation)

    def reconstruct(self, observation: Observation, seed: int) -> Reconstruction:
        """Divide each row by the number that gives its bin's brightness."""
        images, strength = separated_images(observation, self.noise)
        unit = observation.space.denormalize(images)
        plausible = ((unit > -self.margin) & (unit < 1 + self.margin)).flatten(1).all(1)
        order = torch.argsort(strength + 2.0 * plausible, descending=True)
        return first_images(observation, images[order], plausible[order])


def separated_images(observation: Observation, noise: float) -> tuple[Tensor, Tensor]:
    """Return an image for each row and set that changed, and how large the changes are.

    Parameters
    ----------
    noise : float
        Below this share of the largest change there was none.

    Returns
    -------
    tuple[Tensor, Tensor]
        Normalised images, float64, shape (n, channels, height, width), those of the first set
        first; and numbers from 0 to 1, shape (n,): the change by the largest.
    """
    name, block = block_of(observation)
    names, size = observation.model.names, math.prod(observation.space.shape)
    change = observation.target[names.index(f"{name}.encoder.weight")].double()
    bias = observation.target[names.index(f"{name}.encoder.bias")].double()
    scale, shift = _scale_and_shift(block)
    change = change.view(len(change), block.sets, size) / scale
    sizes = change.abs().mean(2)
    sizes = sizes / sizes.max().clamp_min(torch.finfo(sizes.dtype).tiny)
    sets, bins = (sizes > noise).T.nonzero(as_tuple=True)
    rows = change[bins, sets]
    low, width = _bins_of(block, scale, size)
    # What the rows are the image times, if the brightness is in the middle of its bin; or, where
    # the bias says a number that puts it within the bin, that number.
    middle = rows.mean(1) / (low + width / 2 + shift)[bins]
    brightness = rows.mean(1) / bias[bins] - shift
    agrees = (brightness > low[bins]) & (brightness < (low + width)[bins])
    times = torch.where(agrees, bias[bins], middle)
    images = (rows / times[:, None] - shift).view(-1, *observation.space.shape)
    return images, sizes[bins, sets]


def _scale_and_shift(block: LokiBlock) -> tuple[float, float]:
    """Return what the kernels that were sent multiply images by, and what they add before."""
    scale = float(block.kernels.weight.double().abs().max())
    assert block.kernels.bias is not None
    return scale, float(block.kernels.bias.double().abs().max()) / scale


def _bins_of(block: LokiBlock, scale: float, size: int) -> tuple[Tensor, Tensor]:
    """Return the lower ends and the widths of the encoder's bins, in units of the brightness."""
    widths = 1 / (block.encoder.weight.double()[:, 0] * scale * size)
    _, shift = _scale_and_shift(block)
    return -block.encoder.bias.double() * widths - shift, widths


def block_of(observation: Observation) -> tuple[str, LokiBlock]:
    """Return the name and the block of the model that was sent.

    Raises
    ------
    AttackError
        If it has none.
    """
    for name, module in observation.model.module.named_modules():
        if isinstance(module, LokiBlock):
            return name, module
    raise AttackError(
        "the model has no kernels that keep clients apart; expected a federation with model.name = "
        "'loki'"
    )
