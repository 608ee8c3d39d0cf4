"""Defenses by name: Flower mods that change what a client sends.

Each is one class derived from :class:`~atoll.attacks.defenses.base.defense.Defense`. The names are
imported when they are asked for.
"""

from __future__ import annotations

from atoll.attacks.defenses.base.defense import Defense as Defense
from atoll.registry import Registry

REFERENCES: dict[str, str] = {
    name: f"atoll.attacks.defenses.{place}"
    for name, place in {
        "gaussian-noise": "noise:GaussianNoise",
        "clipping": "clipping:Clipping",
        "dp-sgd": "dp_sgd:DPSGD",
        "local-dp": "local_dp:LocalDP",
        "top-k": "pruning:TopK",
        "sign": "quantization:Sign",
        "quantization": "quantization:Quantization",
        "nearest-quantization": "quantization:NearestQuantization",
        "entropy-coding": "entropy_coding:EntropyCoding",
        "soteria": "soteria:Soteria",
        "precode": "precode:Precode",
        "outpost": "outpost:Outpost",
        "orthogonal": "orthogonal:OrthogonalGradient",
        "mixup": "mixup:MixUp",
    }.items()
}
# Mods that look at what a client got, and change nothing of what it sends.
CHECKS: dict[str, str] = {"model-check": "atoll.attacks.defenses.model_check:ModelCheck"}
DEFENSES: Registry[type[Defense]] = Registry("defense", REFERENCES)
