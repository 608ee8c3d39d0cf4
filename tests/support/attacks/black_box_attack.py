"""The attack of a user's own that docs/guides/attacks.md shows."""

from __future__ import annotations

from atoll.attacks.base.attack import Progress, Reconstruction
from atoll.attacks.base.group import Group
from atoll.attacks.base.optimization_attack import (
    OptimizationAttack,
    best_restarts,
    matching_objective,
)
from atoll.attacks.optim.matching import cosine
from atoll.attacks.optim.minimize import minimize
from atoll.attacks.optim.priors import total_variation
from atoll.attacks.optim.step_rules import Adam


class Mine(OptimizationAttack):
    """Adam on the cosine; settings are fields, checked by their types."""

    steps: int = 500
    tv: float = 1e-3

    def attack_group(self, group: Group, progress: Progress) -> list[Reconstruction]:
        objective = matching_objective(
            group, cosine, lambda values: values[0], [(self.tv, total_variation)]
        )
        minimum = minimize(objective, [group.image_noise], Adam(0.1), self.steps)
        return best_restarts(group, minimum, minimum.values[0])
