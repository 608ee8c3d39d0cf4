"""Plug-and-play inversion: descent on the matching cost, and a prior's proximal map, in turn.

It is the alternating direction method of multipliers (Venkatakrishnan et al., 2013; with learned
proximal networks Fang et al., 2024, algorithm 3), whose first problem, the matching cost near the
other variable, is descended for a few steps in place of being solved: it is not convex.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from atoll.attacks.base.attack import Progress, Reconstruction
from atoll.attacks.base.group import Group
from atoll.attacks.base.optimization_attack import best_restarts, matching_objective
from atoll.attacks.base.prior_attack import PriorAttack, with_prior_values
from atoll.attacks.optim.matching import COSTS
from atoll.attacks.optim.minimize import minimize
from atoll.attacks.optim.step_rules import step_rule
from atoll.attacks.optim.step_size_schedules import SCHEDULES
from atoll.attacks.priors.prior import Prior
from atoll.attacks.threat.observation import Observation
from atoll.clients.ranges import Iterations, Rate, Weight
from atoll.errors import AttackError


class PlugAndPlay(PriorAttack):
    """Adam on the matching cost, with the proximal map of a prior after every few steps.

    The images of the least matching cost are the answer. The prior's value of each of them is
    reported.

    Attributes
    ----------
    prior : str
        A name in :data:`~atoll.attacks.priors.PRIORS`, or ``module:Class``.
    steps : int
        Of the optimiser.
    inner_steps : int
        Steps between two uses of the proximal map.
    coupling : float
        What the mean squared distance, in pixels of [0, 1], of the images from those of the prior
        counts for.
    learning_rate : float
        In units of normalised pixels.
    rule : str
        "signed-adam" or "adam".
    schedule : str
        How the learning rate falls.
    cost : str
        A name in :data:`~atoll.attacks.optim.matching.COSTS`.
    """

    prior: str = "total-variation"
    steps: Iterations = 1000
    inner_steps: Iterations = 10
    coupling: Weight = 1.0
    learning_rate: Rate = 0.1
    rule: Literal["signed-adam", "adam"] = "signed-adam"
    schedule: Literal["step", "cosine", "constant"] = "step"
    cost: Literal["cosine", "layerwise-cosine", "l2"] = "cosine"

    def check(self, observation: Observation) -> None:
        """Refuse an attack without a prior."""
        super().check(observation)
        if self.prior == "none":
            raise AttackError("prior = 'none': expected a prior; 'inverting-gradients' has none")

    def attack_group(self, group: Group, progress: Progress) -> list[Reconstruction]:
        """Attack observations that share their broadcast model."""
        prior = self.prior_for(group.first)
        assert prior is not None
        coupled = _Coupling(prior, group, self.inner_steps)
        start = group.image_noise
        minimum = minimize(
            matching_objective(
                group,
                COSTS[self.cost],
                lambda values: values[0],
                [(self.coupling, coupled.cost)],
            ),
            [start],
            step_rule(self.rule, self.learning_rate),
            self.steps,
            schedule=SCHEDULES[self.schedule],
            project=coupled.project,
            on_step=lambda done: progress(done, self.steps),
        )
        return with_prior_values(best_restarts(group, minimum, minimum.values[0]), prior)


class _Coupling:
    """The prior's variable and the multiplier, in pixels of [0, 1]; and what draws images to them.

    Parameters
    ----------
    prior : Prior
        Has the proximal map.
    group : Group
        The victims.
    every : int
        Steps between two uses of it.
    """

    def __init__(self, prior: Prior, group: Group, every: int) -> None:
        self._prior, self._group, self._every = prior, group, every
        self._steps = 0
        self._wanted: Tensor | None = None
        self._multiplier: Tensor | None = None

    def cost(self, images: Tensor) -> Tensor:
        """Return the mean squared distance from what the prior wants, with the value 0.

        Its derivative is descended; as a number it would compare images by where the prior's
        variable happens to be, and the best images are those of the least matching cost.
        """
        if self._wanted is None:
            return images.new_zeros(len(images))
        pixels = self._group.first.space.denormalize(images)
        distance = (pixels - self._wanted).flatten(1).square().mean(1)
        return distance - distance.detach()

    def project(self, values: list[Tensor]) -> None:
        """Put images back into their box, and after every few steps move the prior's variable."""
        self._group.into_box(values)
        self._steps += 1
        if self._steps % self._every:
            return
        pixels = self._group.first.space.denormalize(values[0])
        multiplier = torch.zeros_like(pixels) if self._multiplier is None else self._multiplier
        rows = (pixels + multiplier).flatten(0, 1)
        found = self._prior.prox(rows).view(pixels.shape)
        self._multiplier = multiplier + pixels - found
        self._wanted = found - self._multiplier
