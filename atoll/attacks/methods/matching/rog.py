"""Reconstruction from obfuscated gradients (ROG; Yue et al., 2023, arXiv 2206.04055).

A small image is optimised and enlarged inside the loop, so there are few unknowns and a hundred
steps do; then the enlarged image is improved by a network that was trained on public images. The
paper's two networks, a conditional generator and a super-resolution network, are of a size for
photographs; here a small super-resolution network is trained when the attack runs.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from atoll.attacks.base.attack import Progress, Reconstruction
from atoll.attacks.base.group import Group
from atoll.attacks.base.optimization_attack import (
    OptimizationAttack,
    best_restarts,
    matching_objective,
)
from atoll.attacks.optim.matching import squared_l2
from atoll.attacks.optim.minimize import minimize
from atoll.attacks.optim.step_rules import Adam
from atoll.attacks.optim.step_size_schedules import cosine_to_a_tenth
from atoll.attacks.optim.super_resolution import enlarge, train_super_resolution
from atoll.attacks.threat.capabilities import Capability, ThreatModel
from atoll.attacks.threat.observation import Observation
from atoll.clients.ranges import Iterations, Pixels, Rate
from atoll.errors import AttackError
from atoll.randomness import derive_seed


class ROG(OptimizationAttack):
    """Adam on a reduced image, squared distance, and super-resolution.

    Attributes
    ----------
    factor : int
        How many times smaller, in each direction, the optimised image is; the paper's is 4, for
        128 pixels.
    steps : int
        The learning rate falls along a cosine to a tenth.
    learning_rate : float
        Of Adam, in the first step.
    enhancement : str
        "super-resolution" needs public images; "none" leaves the enlarged image.
    enhancement_steps : int
        Steps by which the super-resolution network is trained.
    """

    steps: Iterations = 100
    learning_rate: Rate = 0.05
    factor: Pixels = 4
    enhancement: Literal["super-resolution", "none"] = "super-resolution"
    enhancement_steps: Iterations = 300

    @property
    def threat(self) -> ThreatModel:
        """The threat model."""
        threat = super().threat
        if self.enhancement == "none":
            return threat
        return threat.with_({Capability.PUBLIC_DATA})

    def check(self, observation: Observation) -> None:
        """Refuse images that cannot be reduced by the factor."""
        super().check(observation)
        _, height, width = observation.space.shape
        if height % self.factor or width % self.factor:
            raise AttackError(
                f"factor = {self.factor}: images of {height}x{width} pixels cannot be reduced by "
                "it; expected a divisor of both"
            )

    def attack_group(self, group: Group, progress: Progress) -> list[Reconstruction]:
        """Attack observations that share their broadcast model."""
        first = group.first
        channels, height, width = first.space.shape
        small = group.noise(first.num_images, channels, height // self.factor, width // self.factor)
        minimum = minimize(
            matching_objective(group, squared_l2, lambda values: enlarge(values[0], self.factor)),
            [small],
            Adam(self.learning_rate),
            self.steps,
            schedule=cosine_to_a_tenth,
            on_step=lambda done: progress(done, self.steps),
        )
        images = first.space.clip(enlarge(minimum.values[0], self.factor))
        return best_restarts(group, minimum, self._enhanced(group, images))

    def _enhanced(self, group: Group, images: Tensor) -> Tensor:
        public = group.first.public
        if public is None:
            return images
        network = train_super_resolution(
            group.first.space.normalize(public.images),
            self.factor,
            self.enhancement_steps,
            derive_seed(group.seed, "super-resolution"),
        )
        with torch.no_grad():
            improved: Tensor = network(images.flatten(0, 1))
        return improved.view_as(images)
