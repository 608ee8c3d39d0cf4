"""Robbing the Fed: images read off the gradient of an imprint block (Fowl et al., 2022).

The server sends a model of :mod:`atoll.clients.models.malicious.imprint_block`. The difference of
the gradients of neighbouring bins is that of the images whose brightness lies between their
thresholds.
"""

from __future__ import annotations

import torch
from torch import Tensor

from atoll.attacks.base.attack import Reconstruction, SeparateAttack
from atoll.attacks.base.optimization_attack import to_unit
from atoll.attacks.threat.capabilities import Capability
from atoll.attacks.threat.observation import Observation
from atoll.clients.models.malicious.imprint_block import ImprintBlock
from atoll.clients.ranges import Share
from atoll.errors import AttackError


class Imprint(SeparateAttack):
    """Differences of neighbouring bins' gradients; one division an image, no optimisation.

    Attributes
    ----------
    noise : float
        A bin whose bias gradient changes by less than this share of the largest change is empty.
    margin : float
        How far outside [0, 1], and how far outside its bin (in bins), an image may lie. Two images
        in one bin seldom pass.
    """

    noise: Share = 1e-5
    margin: Share = 0.05

    needs = frozenset({Capability.CHOOSES_MODEL})

    def check(self, observation: Observation) -> None:
        """Refuse a model without an imprint block."""
        _block(observation)

    def reconstruct(self, observation: Observation, seed: int) -> Reconstruction:
        """Subtract and divide."""
        name, block = _block(observation)
        names = observation.model.names
        weight = observation.target[names.index(f"{name}.encoder.weight")].double()
        bias = observation.target[names.index(f"{name}.encoder.bias")].double()
        weights = weight - torch.cat([weight[1:], torch.zeros_like(weight[:1])])
        biases = bias - torch.cat([bias[1:], torch.zeros_like(bias[:1])])
        filled = biases.abs() > self.noise * biases.abs().max()
        bins = filled.nonzero().flatten()
        pixels = weights[bins] / biases[bins, None]
        images = pixels.view(-1, *observation.space.shape)
        plausible = self._is_image(observation, images) & self._is_in_bin(block, bins, pixels)
        # Those that pass come first, and among them those with the strongest gradient.
        order = torch.argsort(biases[bins].abs() + 1e30 * plausible, descending=True)
        return _first(observation, images[order], plausible[order])

    def _is_image(self, observation: Observation, images: Tensor) -> Tensor:
        unit = observation.space.denormalize(images)
        return ((unit > -self.margin) & (unit < 1 + self.margin)).flatten(1).all(1)

    def _is_in_bin(self, block: ImprintBlock, bins: Tensor, pixels: Tensor) -> Tensor:
        thresholds = -block.encoder.bias.double()
        brightness = (pixels @ block.encoder.weight.double().T).gather(1, bins[:, None])[:, 0]
        low = thresholds[bins]
        high = torch.cat([thresholds[1:], thresholds.new_tensor([torch.inf])])[bins]
        slack = self.margin * (high - low).nan_to_num(posinf=0.0)
        return (brightness > low - slack) & (brightness <= high + slack)


def _first(observation: Observation, images: Tensor, plausible: Tensor) -> Reconstruction:
    """Return as many images as the client had; those that were not found are grey."""
    count = observation.num_images
    result = torch.full((count, *observation.space.shape), 0.5)
    found = torch.zeros(count, dtype=torch.bool)
    kept = min(count, len(images))
    result[:kept] = to_unit(observation, images[:kept]).float()
    found[:kept] = plausible[:kept].cpu()
    return Reconstruction(result, torch.full((count,), -1), "none", found=found)


def _block(observation: Observation) -> tuple[str, ImprintBlock]:
    for name, module in observation.model.module.named_modules():
        if isinstance(module, ImprintBlock):
            return name, module
    raise AttackError(
        "the model has no imprint block; expected a federation with model.name = 'imprint'"
    )
