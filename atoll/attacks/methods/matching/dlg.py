"""Deep Leakage from Gradients, and with inferred labels (Zhu et al., 2019; Zhao et al., 2020).

Both descend the squared distance of updates by L-BFGS from Gaussian noise. They work on smooth
networks with weights that are not small (LeNet with sigmoids, uniform weights), and hardly on
ReLU networks.
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
from atoll.attacks.optim.step_rules import LBFGS
from atoll.attacks.threat.observation import Observation
from atoll.attacks.threat.simulation import ClientSimulation
from atoll.clients.ranges import Iterations, Rate, Repetitions, Weight


class IDLG(OptimizationAttack):
    """L-BFGS on the images, with labels inferred from the sign of the last layer's gradient.

    Attributes
    ----------
    steps : int
        L-BFGS steps; the paper's 300 calls of 20 steps each seldom need as many.
    learning_rate : float
        The length of a step along the quasi-Newton direction.
    tolerance : float
        It ends when the squared distance is below, for all candidates.
    """

    steps: Iterations = 1200
    learning_rate: Rate = 1.0
    tolerance: Weight = 1e-10
    restarts: Repetitions = 3

    def attack_group(self, group: Group, progress: Progress) -> list[Reconstruction]:
        """Attack observations that share their broadcast model."""
        minimum = minimize(
            matching_objective(group, squared_l2, lambda values: values[0]),
            [group.image_noise],
            LBFGS(self.learning_rate),
            self.steps,
            tolerance=self.tolerance,
            on_step=lambda done: progress(done, self.steps),
        )
        return best_restarts(group, minimum, minimum.values[0])


class DLG(IDLG):
    """L-BFGS on the images and on the labels' logits together.

    Attributes
    ----------
    labels : str
        They are always optimised.
    """

    labels: Literal["optimised"] = "optimised"  # type: ignore[assignment]

    def check(self, observation: Observation) -> None:
        """Refuse a client that cannot be simulated."""
        ClientSimulation.of(observation)

    def attack_group(self, group: Group, progress: Progress) -> list[Reconstruction]:
        """Attack observations that share their broadcast model."""
        first = group.first
        logits = group.noise(first.num_images, first.classes, phase="labels")
        minimum = minimize(
            matching_objective(
                group,
                squared_l2,
                lambda values: values[0],
                targets_of=lambda values: torch.softmax(values[1], -1),
            ),
            [group.image_noise, logits],
            LBFGS(self.learning_rate),
            self.steps,
            tolerance=self.tolerance,
            on_step=lambda done: progress(done, self.steps),
        )
        images, found = minimum.values
        return best_restarts(group, minimum, images, found.argmax(-1), "optimised")

    def _labels_of(self, observation: Observation) -> Tensor:
        return torch.full((observation.num_images,), -1, dtype=torch.int64)
