"""Inversion by a diffusion model that is guided by the matching cost.

A score network's sampler goes from noise to an image. At each level of noise the image is moved
down the gradient of the matching cost at its denoised estimate, through the denoiser (diffusion
posterior sampling; Chung et al., 2023, arXiv 2209.14687, algorithm 1; here the step's length is
given, whatever the gradient's norm).

Guidance is adaptive, after Castillo et al. (2023, arXiv 2312.12487, sec. 4.2): where the guided
step has nearly the direction of the unguided one, it does not matter, and is left out. For text the
two converge at the end of the sampling, and guidance ends there. Here they are alike at the
beginning, where noise is most of the image, so that guidance is looked at again after a pause.
"""

from __future__ import annotations

from dataclasses import replace
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor

from atoll.attacks.base.attack import Progress, Reconstruction
from atoll.attacks.base.group import Group
from atoll.attacks.base.optimization_attack import best_restarts
from atoll.attacks.base.prior_attack import PriorAttack, with_prior_values
from atoll.attacks.optim.matching import TINY, Targets, cosine
from atoll.attacks.optim.minimize import Minimum
from atoll.attacks.priors.diffusion import Diffusion
from atoll.attacks.priors.score_network import ScoreNetwork
from atoll.attacks.threat.observation import Observation
from atoll.clients.ranges import Fraction, Iterations, NonNegativeCount, Positive
from atoll.errors import AttackError

# Bends the levels of noise between the largest and the least (Karras et al., 2022, eq. 5).
CURVE = 7.0
# The least level, of images in [-1, 1].
LEAST = 0.02


class GuidedDiffusion(PriorAttack):
    """Sampling of a score network, guided by 1 - cosine of the updates, with adaptive guidance.

    The cost path of a reconstruction has the matching cost at each level that was guided, so its
    length is the number of evaluations.

    Attributes
    ----------
    prior : str
        "diffusion"; ``prior_path`` is its file.
    levels : int
        Of noise, from the network's largest to 0.02.
    guidance : float
        Length of a guiding step, as the root mean square over pixels in [-1, 1], at levels of noise
        above 1; below, it falls with the level.
    churn : float
        Share of the noise that is drawn anew at each level; 0 is the deterministic sampler.
    alignment : float
        Cosine of the guided and the unguided step above which guidance pauses; 1 guides every
        level.
    pause : int
        How many levels are left unguided before guidance is looked at again.
    """

    prior: str = "diffusion"
    levels: Iterations = 100
    guidance: Positive = 0.3
    churn: Fraction = 0.0
    alignment: Fraction = 0.995
    pause: NonNegativeCount = 15

    def check(self, observation: Observation) -> None:
        """Refuse another prior than a score network."""
        if self.prior == "none" or not issubclass(self._kind, Diffusion):
            raise AttackError(f"prior = {self.prior!r}: expected 'diffusion'")
        super().check(observation)

    def attack_group(self, group: Group, progress: Progress) -> list[Reconstruction]:
        """Attack observations that share their broadcast model."""
        prior = cast(Diffusion, self.prior_for(group.first))
        sampler = _Sampler(self, prior.network, group)
        for step in range(self.levels):
            sampler.take_step(step)
            progress(step + 1, self.levels)
        images, costs = sampler.finish()
        found = best_restarts(
            group, Minimum([images], costs, costs, costs[:, None], self.levels), images
        )
        chosen = [victim * group.restarts + one.restart for victim, one in enumerate(found)]
        pathed = [
            replace(one, cost_path=torch.tensor(sampler.paths[place]))
            for one, place in zip(found, chosen, strict=True)
        ]
        return with_prior_values(pathed, prior)


class _Sampler:
    """Images of all candidates on their way from noise, in [-1, 1].

    Parameters
    ----------
    attack : GuidedDiffusion
        The settings.
    network : ScoreNetwork
        The denoiser.
    group : Group
        The victims.

    Attributes
    ----------
    paths : list[list[float]]
        The matching cost at each guided level, for each candidate.
    """

    def __init__(self, attack: GuidedDiffusion, network: ScoreNetwork, group: Group) -> None:
        self._attack, self._network, self._group = attack, network, group
        self._simulation, self._targets = group.simulation, group.targets
        self._client_noise = group.client_noise
        self._generators = group.generators("churn")
        self._levels = levels_of_noise(attack.levels, network.largest)
        self._images = group.image_noise * self._levels[0]
        self._paused = [0] * group.candidates
        self.paths: list[list[float]] = [[] for _ in range(group.candidates)]

    def take_step(self, step: int) -> None:
        """Go from a level of noise to the next."""
        here, below = float(self._levels[step]), float(self._levels[step + 1])
        images, attack = self._images, self._attack
        guided = [place for place, left in enumerate(self._paused) if not left]
        self._paused = [max(0, left - 1) for left in self._paused]
        denoised = torch.empty_like(images)
        guide = torch.zeros_like(images)
        rest = [place for place in range(len(images)) if place not in set(guided)]
        if rest:
            with torch.no_grad():
                denoised[rest] = self._denoised(images[rest], here)
        if guided:
            denoised[guided], guide[guided] = self._guide(guided, here)
        kept = below * (1 - attack.churn**2) ** 0.5
        moved = denoised + (images - denoised) * (kept / here)
        if attack.churn:
            moved = moved + attack.churn * below * self._noise()
        shift = -attack.guidance * min(1.0, here) * guide
        self._pause_aligned(guided, denoised - images, shift)
        self._images = moved + shift

    def finish(self) -> tuple[Tensor, Tensor]:
        """Return the normalised images, in their box, and the matching costs."""
        space = self._group.first.space
        images = space.clip(space.normalize((self._images + 1) / 2))
        with torch.no_grad():
            costs = self._costs(images, list(range(len(images))))
        return images, costs

    def _guide(self, places: list[int], level: float) -> tuple[Tensor, Tensor]:
        """Return denoised images, and the matching cost's gradient with a root mean square of 1."""
        noisy = self._images[places].requires_grad_()
        denoised = self._denoised(noisy, level)
        costs = self._costs(self._group.first.space.normalize((denoised + 1) / 2), places)
        [gradient] = torch.autograd.grad(costs.sum(), noisy)
        sizes = gradient.flatten(1).square().mean(1).clamp_min(TINY).sqrt()
        for place, cost in zip(places, costs.tolist(), strict=True):
            self.paths[place].append(cost)
        return denoised.detach(), gradient / sizes.view(-1, *[1] * (gradient.dim() - 1))

    def _pause_aligned(self, places: list[int], step: Tensor, shift: Tensor) -> None:
        """Let guidance pause for those candidates whose step it does not turn."""
        if not places or self._attack.alignment >= 1.0:
            return
        alike = F.cosine_similarity((step + shift).flatten(1), step.flatten(1))
        for place in places:
            if float(alike[place]) > self._attack.alignment:
                self._paused[place] = self._attack.pause

    def _denoised(self, images: Tensor, level: float) -> Tensor:
        rows = images.flatten(0, 1)
        found: Tensor = self._network(rows, rows.new_full((len(rows),), level))
        return found.view(images.shape)

    def _costs(self, images: Tensor, places: list[int]) -> Tensor:
        noise = None if self._client_noise is None else self._client_noise[places]
        updates = self._simulation.stacked(images, self._group.labels[places], noise)
        return cosine(updates, Targets(target[places] for target in self._targets))

    def _noise(self) -> Tensor:
        shape = self._images.shape[1:]
        drawn = [torch.randn(shape, generator=generator) for generator in self._generators]
        return torch.stack(drawn).to(self._images)


def levels_of_noise(count: int, largest: float) -> Tensor:
    """Return levels of noise from the largest to the least, and 0: shape (count + 1,)."""
    along = torch.linspace(0, 1, count, dtype=torch.float64)
    high, low = largest ** (1 / CURVE), LEAST ** (1 / CURVE)
    return torch.cat([(high + along * (low - high)) ** CURVE, torch.zeros(1, dtype=torch.float64)])
