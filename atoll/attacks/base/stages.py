"""Results of an attack's stages, and the choice of the stage that is the answer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from atoll.attacks.base.attack import Reconstruction, Stage
from atoll.attacks.base.group import Group
from atoll.attacks.base.optimization_attack import best_restarts, to_unit
from atoll.attacks.optim.minimize import Minimum


@dataclass(frozen=True)
class StageResult:
    """Result of a stage, for all candidates.

    Attributes
    ----------
    name : str
        Which stage.
    minimum : Minimum
        Its minimisation.
    images : Tensor
        Normalised, (candidates, n, channels, height, width).
    """

    name: str
    minimum: Minimum
    images: Tensor


def best_stages(group: Group, results: Sequence[StageResult]) -> list[Reconstruction]:
    """Return each victim's images of the least matching cost over its stages and restarts.

    The stages of the chosen restart are kept, so that the oracle's choice can be told too.
    """
    costs = torch.stack([result.minimum.matching for result in results])
    chosen = costs.nan_to_num(nan=torch.inf).argmin(0)
    candidates = torch.arange(group.candidates, device=chosen.device)
    images = torch.stack([result.images for result in results])[chosen, candidates]
    best = Minimum(
        values=[],
        costs=torch.stack([result.minimum.costs for result in results])[chosen, candidates],
        matching=costs[chosen, candidates],
        path=torch.cat([result.minimum.path for result in results], 1),
        steps=sum(result.minimum.steps for result in results),
    )
    reconstructions = []
    for victim, found in enumerate(best_restarts(group, best, images)):
        place = victim * group.restarts + found.restart
        stages = tuple(
            Stage(
                result.name,
                to_unit(group.observations[victim], result.images[place]),
                float(result.minimum.matching[place]),
            )
            for result in results
        )
        reconstructions.append(replace(found, stages=stages))
    return reconstructions
