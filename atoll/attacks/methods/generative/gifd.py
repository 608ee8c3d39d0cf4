"""GIFD: gradient inversion over feature domains (Fang et al., 2023, arXiv 2308.04699).

The latent of a generator is optimised first, then the features between its parts, one stage after
the other, each in an l1 ball around where the stage before has led. Of all stages and restarts the
images of the least matching cost are the answer.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Literal, TypeVar

import torch
from pydantic import Field
from torch import Tensor

from atoll.attacks.base.attack import Progress, Reconstruction
from atoll.attacks.base.fedleak_options import FedLeakOptions
from atoll.attacks.base.generator_attack import GeneratorAttack, decoder, draw, stack, unstack
from atoll.attacks.base.group import Group
from atoll.attacks.base.optimization_attack import matching_objective
from atoll.attacks.base.stages import StageResult, best_stages
from atoll.attacks.generators.staged_generator import Features, StagedGenerator
from atoll.attacks.optim.matching import COSTS
from atoll.attacks.optim.minimize import Projection, minimize
from atoll.attacks.optim.priors import l2_norm, total_variation
from atoll.attacks.optim.projections import project_l1_ball, project_sphere, row_norms
from atoll.attacks.optim.step_rules import step_rule
from atoll.attacks.optim.step_size_schedules import SCHEDULES
from atoll.attacks.threat.observation import Observation
from atoll.clients.ranges import Depth, Iterations, Positive, Rate, Repetitions, Weight
from atoll.errors import AttackError

T = TypeVar("T")
Steps = Annotated[tuple[Iterations, ...], Field(strict=False)]
Rates = Annotated[tuple[Rate, ...], Field(strict=False)]
Radii = Annotated[tuple[Positive, ...], Field(strict=False)]


class GIFD(FedLeakOptions, GeneratorAttack):
    """Adam on 1 - cosine, stage by stage through a generator.

    ``steps``, ``learning_rate`` and ``radius`` are one number for all stages, or a list with one
    for each. Clients that take several steps are unrolled.

    Attributes
    ----------
    restarts : int
        Latents that are tried for each victim; the paper's 4.
    stages : int or None
        How many stages are optimised, from the latent on; all by default.
    steps : int or list[int]
        Of the optimiser, for each stage; the paper's 1,000.
    learning_rate : float or list[float]
        Where the schedule ends its rise.
    schedule : str
        How it goes within each stage; the paper's is "ramp".
    rule : str
        "adam" (the paper's) or "signed-adam".
    sphere : bool
        Whether what was drawn from a normal distribution keeps its norm.
    ball : bool
        Whether stages after the latent stay in an l1 ball around their start; StyleGAN2's styles
        and noise maps do in the first stage too.
    radius : float or list[float]
        Of the ball of each image.
    radius_unit : str
        "mean": how far a value may move on average (the radius over the number of values);
        "absolute": as the paper gives it, for BigGAN 2000 at stage 1 to 7500 at stage 12.
    tv, norm : float
        What the total variation and the norm of the images count for.
    cost : str
        A name in :data:`~atoll.attacks.optim.matching.COSTS`.
    """

    restarts: Repetitions = 4
    stages: Depth | None = None
    steps: Iterations | Steps = 1000
    learning_rate: Rate | Rates = 0.1
    schedule: Literal["ramp", "step", "cosine", "constant"] = "ramp"
    rule: Literal["adam", "signed-adam"] = "adam"
    sphere: bool = True
    ball: bool = True
    radius: Positive | Radii = 0.1
    radius_unit: Literal["mean", "absolute"] = "mean"
    tv: Weight = 1e-4
    norm: Weight = 1e-6
    cost: Literal["cosine", "layerwise-cosine", "l2"] = "cosine"

    def check(self, observation: Observation) -> None:
        """Refuse more stages than there are, and lists of another length."""
        super().check(observation)
        there = self.generator_for(observation).stages
        wanted = self._count(there)
        if wanted > there:
            raise AttackError(f"stages = {wanted}: the generator has {there}; expected at most so")
        for name in ("steps", "learning_rate", "radius"):
            given = getattr(self, name)
            if isinstance(given, tuple) and len(given) != wanted:
                raise AttackError(
                    f"{name} = {list(given)}: {len(given)} numbers for {wanted} stages; expected "
                    "one for each, or a single number"
                )

    def attack_group(self, group: Group, progress: Progress) -> list[Reconstruction]:
        """Attack observations that share their broadcast model."""
        generator = self.generator_for(group.first)
        count = self._count(generator.stages)
        total, done = sum(_at(self.steps, stage) for stage in range(count)), 0
        features, results = draw(generator, group), list[StageResult]()
        client_noise: Tensor | None = None
        for stage in range(count):
            if stage:
                with torch.no_grad():
                    features = generator.advance(stage - 1, features)

            def report(steps: int, before: int = done) -> None:
                progress(before + steps, total)

            result = self._stage(generator, stage, features, group, client_noise, report)
            features = unstack(result.minimum.values, features)
            client_noise = next(iter(result.minimum.nuisance), None)
            results.append(result)
            done += _at(self.steps, stage)
        return best_stages(group, results)

    def _stage(
        self,
        generator: StagedGenerator,
        stage: int,
        features: Features,
        group: Group,
        client_noise: Tensor | None,
        report: Callable[[int], None],
    ) -> StageResult:
        decode = decoder(generator, stage, features, group)
        minimum = minimize(
            matching_objective(
                group,
                self.partial(COSTS[self.cost]),
                decode,
                [(self.tv, total_variation), (self.norm, l2_norm)],
                client_noise=client_noise,
            ),
            stack(features, group),
            step_rule(self.rule, _at(self.learning_rate, stage)),
            _at(self.steps, stage),
            schedule=SCHEDULES[self.schedule],
            project=self.projection(generator, stage, features),
            regularization=self.gradient_regularization,
            on_step=report,
        )
        with torch.no_grad():
            return StageResult(f"stage {stage}", minimum, decode(minimum.values))

    def projection(
        self, generator: StagedGenerator, stage: int, features: Features
    ) -> Projection | None:
        """Return the projection of a stage's values: onto their spheres, then into their balls."""
        starts = list(features.free.values())
        norms = [
            row_norms(start) if self.sphere and name in generator.spherical else None
            for name, start in features.free.items()
        ]
        radii = [
            self._radius(stage, start) if stage or name in generator.bounded_from_start else 0.0
            for name, start in features.free.items()
        ]
        if not any(norm is not None for norm in norms) and not any(radii):
            return None

        def project(values: list[Tensor]) -> None:
            for value, start, norm, radius in zip(values, starts, norms, radii, strict=True):
                rows = value.flatten(0, 1)
                if norm is not None:
                    rows = project_sphere(rows, norm)
                if radius:
                    rows = project_l1_ball(rows, start, radius)
                value.copy_(rows.view_as(value))

        return project

    def _radius(self, stage: int, start: Tensor) -> float:
        """Return the radius of an image's ball, or 0 where there is none."""
        if not self.ball:
            return 0.0
        radius = _at(self.radius, stage)
        return radius * start[0].numel() if self.radius_unit == "mean" else radius

    def _count(self, there: int) -> int:
        return there if self.stages is None else self.stages


def _at(setting: T | tuple[T, ...], stage: int) -> T:
    return setting[stage] if isinstance(setting, tuple) else setting
