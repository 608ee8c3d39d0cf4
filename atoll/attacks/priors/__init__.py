"""Priors of examples, by name; a user's own are given as ``module:Class``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from atoll.registry import Registry

if TYPE_CHECKING:
    from atoll.attacks.priors.prior import Prior

PRIORS: Registry[type[Prior]] = Registry(
    "prior",
    {
        "total-variation": "atoll.attacks.priors.closed_form:TotalVariation",
        "gaussian": "atoll.attacks.priors.closed_form:Gaussian",
        "lpn": "atoll.attacks.priors.learned_proximal:LearnedProximal",
        "diffusion": "atoll.attacks.priors.diffusion:Diffusion",
    },
)
