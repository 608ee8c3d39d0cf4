"""Baseline with a generator: images of the labels that the update reveals."""

from __future__ import annotations

import torch

from atoll.attacks.base.attack import Progress, Reconstruction
from atoll.attacks.base.generator_attack import GeneratorAttack, decoder, draw, stack
from atoll.attacks.base.group import Group
from atoll.attacks.base.optimization_attack import best_restarts, matching_objective
from atoll.attacks.optim.matching import cosine
from atoll.attacks.optim.minimize import Minimum


class GeneratorSample(GeneratorAttack):
    """Sample of a generator for the inferred labels, without search; restarts by 1 - cosine."""

    def attack_group(self, group: Group, progress: Progress) -> list[Reconstruction]:
        """Attack observations that share their broadcast model."""
        generator = self.generator_for(group.first)
        features = draw(generator, group)
        decode = decoder(generator, 0, features, group)
        values = stack(features, group)
        with torch.no_grad():
            images = decode(values)
            _, costs = matching_objective(group, cosine, decode)(values)
        progress(1, 1)
        return best_restarts(group, Minimum([], costs, costs, costs[:, None], 0), images)
