"""Inverting Gradients (Geiping et al., 2020, arXiv 2003.14053)."""

from __future__ import annotations

from typing import Literal

from atoll.attacks.base.attack import Progress, Reconstruction
from atoll.attacks.base.fedleak_options import FedLeakOptions
from atoll.attacks.base.group import Group
from atoll.attacks.base.optimization_attack import best_restarts, matching_objective
from atoll.attacks.base.prior_attack import PriorAttack, image_cost, with_prior_values
from atoll.attacks.optim.matching import COSTS
from atoll.attacks.optim.minimize import minimize
from atoll.attacks.optim.priors import PriorCost, total_variation
from atoll.attacks.optim.step_rules import step_rule
from atoll.attacks.optim.step_size_schedules import SCHEDULES
from atoll.clients.ranges import Iterations, Rate, Weight


class InvertingGradients(FedLeakOptions, PriorAttack):
    """Adam on the sign of the gradient of 1 - cosine + total variation, pixels kept in their box.

    Of a client that takes several steps, the steps are unrolled and the change of the parameters
    is matched (sec. 6).

    Attributes
    ----------
    steps : int
        Of the optimiser; the paper's scale is 4,800 to 24,000.
    learning_rate : float
        In units of normalised pixels.
    tv : float
        What the total variation counts for. The original's default is 1e-1, and that of the
        implementation in GIFD's release, which takes no sign, 1e-4; the best one depends on the
        model and the data.
    prior_weight : float
        What the value of ``prior``, divided by the number of pixels, counts for.
    rule : str
        "signed-adam" (the paper's) or "adam".
    schedule : str
        How the learning rate falls; the paper's is "step".
    cost : str
        A name in :data:`~atoll.attacks.optim.matching.COSTS`.
    """

    steps: Iterations = 4800
    learning_rate: Rate = 0.1
    tv: Weight = 1e-2
    prior_weight: Weight = 1.0
    rule: Literal["signed-adam", "adam"] = "signed-adam"
    schedule: Literal["step", "cosine", "constant"] = "step"
    cost: Literal["cosine", "layerwise-cosine", "l2"] = "cosine"

    def attack_group(self, group: Group, progress: Progress) -> list[Reconstruction]:
        """Attack observations that share their broadcast model."""
        prior = self.prior_for(group.first)
        priors: list[tuple[float, PriorCost]] = [(self.tv, total_variation)]
        if prior is not None:
            priors.append((self.prior_weight, image_cost(prior, group.first)))
        minimum = minimize(
            matching_objective(
                group,
                self.partial(COSTS[self.cost]),
                lambda values: values[0],
                priors,
            ),
            [group.image_noise],
            step_rule(self.rule, self.learning_rate),
            self.steps,
            schedule=SCHEDULES[self.schedule],
            project=group.into_box,
            regularization=self.gradient_regularization,
            on_step=lambda done: progress(done, self.steps),
        )
        return with_prior_values(best_restarts(group, minimum, minimum.values[0]), prior)
