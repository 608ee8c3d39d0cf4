"""Score networks as priors: denoisers of images for every level of noise."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar, Self, cast

import torch
from torch import Tensor

from atoll.attacks.priors.prior import Prior
from atoll.attacks.priors.prior_files import read_prior
from atoll.attacks.priors.score_network import ScoreNetwork
from atoll.attacks.threat.capabilities import Capability
from atoll.attacks.threat.observation import Observation
from atoll.errors import AttackError
from atoll.randomness import derive_seed

# Levels of noise, in units of images in [-1, 1], at which the value is estimated.
LEVELS = (0.1, 0.2, 0.4, 0.8)


class Diffusion(Prior):
    """Prior by a score network: its value is the diffusion loss, its proximal map a denoiser.

    The value is a sum over levels s of noise of |D(x + s n, s) - x|^2 / (2 s^2), with n drawn once:
    the terms of the bound on -log p (Song et al., 2021, "Maximum likelihood training of score-based
    diffusion models"). The proximal map is D(x, strength), the mean of the posterior where the map
    itself is its maximum: an approximation.

    Parameters
    ----------
    network : ScoreNetwork
        The network.
    strength : float
        Deviation of the noise that the proximal map takes away, of images in [0, 1].
    """

    kinds: ClassVar[frozenset[str]] = frozenset({"images"})
    needs: ClassVar[frozenset[Capability]] = frozenset({Capability.PRIOR})
    needs_path: ClassVar[bool] = True

    def __init__(self, network: ScoreNetwork, strength: float) -> None:
        self.network = network.eval().requires_grad_(False)
        self._strength = strength

    @classmethod
    def of(cls, observation: Observation, path: Path | None, strength: float) -> Self:
        """Read the network of a file."""
        assert path is not None
        network = read_prior(path, "diffusion", observation.space.shape)
        prior = cls(cast(ScoreNetwork, network).to(observation.model.device), strength)
        if 2 * strength > prior.network.largest:
            raise AttackError(
                f"prior_strength = {strength:g}: the network was trained for noise up to "
                f"{prior.network.largest / 2:g}; expected at most so"
            )
        return prior

    def value(self, examples: Tensor) -> Tensor:
        """Return the diffusion loss of each image: shape (n,)."""
        images = 2 * examples - 1
        total = images.new_zeros(len(images))
        for level in LEVELS:
            random = torch.Generator().manual_seed(derive_seed(0, "diffusion prior", f"{level}"))
            noise = torch.randn(images.shape[1:], generator=random).to(images)
            denoised = self.network(images + level * noise, images.new_full((len(images),), level))
            total = total + (denoised - images).flatten(1).square().sum(1) / (2 * level**2)
        return total

    @torch.no_grad()
    def prox(self, examples: Tensor) -> Tensor:
        """Return the denoised images."""
        level = examples.new_full((len(examples),), 2 * self._strength)
        denoised: Tensor = self.network(2 * examples - 1, level)
        return (denoised + 1) / 2
