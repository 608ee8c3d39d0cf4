"""GIAS: gradient inversion with a generative image prior (Jeon et al., 2021, arXiv 2110.14962).

The latent is optimised first; then, with the latent fixed, the generator's weights, for each victim
its own.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.func import functional_call

from atoll.attacks.base.attack import Progress, Reconstruction
from atoll.attacks.base.generator_attack import (
    GeneratorAttack,
    decoder,
    draw,
    split,
    stack,
    unstack,
)
from atoll.attacks.base.group import Group
from atoll.attacks.base.optimization_attack import matching_objective
from atoll.attacks.base.stages import StageResult, best_stages
from atoll.attacks.generators.staged_generator import Features, StagedGenerator
from atoll.attacks.optim.matching import cosine
from atoll.attacks.optim.minimize import minimize
from atoll.attacks.optim.priors import total_variation
from atoll.attacks.optim.step_rules import Adam
from atoll.attacks.optim.step_size_schedules import thirds_of_eight
from atoll.clients.ranges import Iterations, Rate, Weight


class GIAS(GeneratorAttack):
    """Adam on 1 - cosine by the latent, then by the generator's weights.

    Attributes
    ----------
    latent_steps, weight_steps : int
        Of the optimiser; the paper's 1,000 and 8,000.
    latent_rate, weight_rate : float
        Learning rates; a tenth less after 3/8, 5/8 and 7/8 of each part.
    tv : float
        What the total variation counts for.
    """

    latent_steps: Iterations = 1000
    weight_steps: Iterations = 8000
    latent_rate: Rate = 3e-2
    weight_rate: Rate = 1e-3
    tv: Weight = 1e-6

    def attack_group(self, group: Group, progress: Progress) -> list[Reconstruction]:
        """Attack observations that share their broadcast model."""
        generator = self.generator_for(group.first)
        total = self.latent_steps + self.weight_steps
        features = draw(generator, group)
        by_latent = decoder(generator, 0, features, group)
        priors = [(self.tv, total_variation)]
        first = minimize(
            matching_objective(group, cosine, by_latent, priors),
            stack(features, group),
            Adam(self.latent_rate),
            self.latent_steps,
            schedule=thirds_of_eight,
            on_step=lambda done: progress(done, total),
        )
        parts = split(unstack(first.values, features), group)
        used = _used_weights(generator, parts[0])
        names = list(used)

        def by_weights(values: list[Tensor]) -> Tensor:
            images = [
                functional_call(generator, dict(zip(names, own, strict=True)), (0, part))
                for part, *own in zip(parts, *values, strict=True)
            ]
            return group.first.space.normalize(torch.stack(images))

        second = minimize(
            matching_objective(
                group,
                cosine,
                by_weights,
                priors,
                client_noise=next(iter(first.nuisance), None),
            ),
            [weight.expand(group.candidates, *weight.shape) for weight in used.values()],
            Adam(self.weight_rate),
            self.weight_steps,
            schedule=thirds_of_eight,
            on_step=lambda done: progress(self.latent_steps + done, total),
        )
        with torch.no_grad():
            results = [
                StageResult("latent", first, by_latent(first.values)),
                StageResult("weights", second, by_weights(second.values)),
            ]
        return best_stages(group, results)


def _used_weights(generator: StagedGenerator, features: Features) -> dict[str, Tensor]:
    """Return the weights that the images depend on: not those that only make latents."""
    weights = {name: w.detach().requires_grad_() for name, w in generator.named_parameters()}
    images = functional_call(generator, weights, (0, features))
    gradients = torch.autograd.grad(images.sum(), list(weights.values()), allow_unused=True)
    return {
        name: weight.detach()
        for (name, weight), gradient in zip(weights.items(), gradients, strict=True)
        if gradient is not None
    }
