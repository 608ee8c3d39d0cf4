"""GradInversion (Yin et al., 2021, "See through gradients", arXiv 2104.07586).

Squared distance of gradients with priors on the images: total variation, norm, BatchNorm's
statistics, and that restarts agree with their mean; Adam with Langevin noise. The paper registers
the restarts' images before it takes their mean; here the mean is of the images as they are.
"""

from __future__ import annotations

from typing import Literal

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
from atoll.attacks.optim.priors import (
    PriorCost,
    batch_norm_statistics,
    batch_statistics,
    group_consistency,
    l2_norm,
    running_statistics,
    total_variation,
)
from atoll.attacks.optim.step_rules import Adam, Langevin
from atoll.attacks.optim.step_size_schedules import cosine
from atoll.attacks.threat.capabilities import Capability, ThreatModel
from atoll.attacks.threat.observation import Observation
from atoll.clients.ranges import Iterations, Positive, Rate, Repetitions, Weight
from atoll.errors import AttackError


class GradInversion(OptimizationAttack):
    """Squared distance, image and BatchNorm priors, group consistency, Langevin noise.

    Attributes
    ----------
    steps : int
        The paper takes 20,000.
    learning_rate : float
        Rises over 50 steps, then falls along a cosine.
    matching, tv, l2, batch_norm, group : float
        What the parts of the cost count for.
    langevin : float
        The noise's standard deviation, as a share of the learning rate.
    statistics : str
        What features' means and variances should be: "running" (the broadcast model's), "batch"
        (the client's own, from the buffers that it sent), "none"; "auto" is "running" for a model
        with BatchNorm that is trained as a whole.
    """

    steps: Iterations = 4000
    learning_rate: Rate = 0.1
    restarts: Repetitions = 4
    matching: Positive = 1e-3
    tv: Weight = 1e-4
    l2: Weight = 1e-6
    batch_norm: Weight = 1e-1
    group: Weight = 1e-2
    langevin: Weight = 1e-2
    statistics: Literal["auto", "running", "batch", "none"] = "auto"

    @property
    def threat(self) -> ThreatModel:
        """The threat model."""
        threat = super().threat
        return threat.with_({Capability.BUFFERS}) if self.statistics == "batch" else threat

    def check(self, observation: Observation) -> None:
        """Refuse statistics of a model or a capture that has none."""
        super().check(observation)
        if self.statistics in ("running", "batch") and not observation.model.batch_norms:
            raise AttackError(
                f"statistics = {self.statistics!r}: the model has no BatchNorm layers; expected "
                "'auto' or 'none'"
            )
        if self.statistics in ("running", "batch") and not observation.model.is_trained_whole:
            raise AttackError(
                f"statistics = {self.statistics!r}: the client's layers saw noise with its images, "
                "and there is no pass without; expected 'auto' or 'none'"
            )
        training = observation.training
        if self.statistics == "batch" and (training is None or training.steps != 1):
            raise AttackError(
                "statistics = 'batch': the client takes several steps, and its buffers are of all "
                "of them; expected 'running'"
            )
        if self._knows_statistics(observation):
            self._statistics(observation)

    def attack_group(self, group: Group, progress: Progress) -> list[Reconstruction]:
        """Attack observations that share their broadcast model."""
        adam = Adam(self.learning_rate)
        minimum = minimize(
            matching_objective(
                group,
                squared_l2,
                lambda values: values[0],
                self._priors(group),
                matching_weight=self.matching,
            ),
            [group.image_noise],
            Langevin(adam, self.langevin, self.learning_rate, group.generators("langevin")),
            self.steps,
            schedule=cosine,
            project=group.into_box,
            on_step=lambda done: progress(done, self.steps),
        )
        return best_restarts(group, minimum, minimum.values[0])

    def _priors(self, group: Group) -> list[tuple[float, PriorCost]]:
        priors: list[tuple[float, PriorCost]] = [(self.tv, total_variation), (self.l2, l2_norm)]
        if group.restarts > 1:
            priors.append((self.group, group_consistency(group.restarts)))
        if self._knows_statistics(group.first):
            statistics = [
                known
                for known in map(self._statistics, group.observations)
                for _ in range(group.restarts)
            ]
            priors.append((self.batch_norm, batch_norm_statistics(group.first.model, statistics)))
        return priors

    def _knows_statistics(self, observation: Observation) -> bool:
        model = observation.model
        return self.statistics != "none" and bool(model.batch_norms) and model.is_trained_whole

    def _statistics(self, observation: Observation) -> dict[str, tuple[Tensor, Tensor]]:
        """Return the target means and variances of each layer."""
        model, sent = observation.model, observation.sent_buffers
        if observation.buffers is None:
            return running_statistics(model, sent)
        return batch_statistics(model, sent, observation.buffers)
