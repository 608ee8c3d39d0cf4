"""Poisoned clients: attacks by some of a federation's clients, as Flower mods, by name.

Each is one class derived from :class:`~atoll.attacks.poisoning.poison.Poison`. The names are
imported when they are asked for.
"""

from __future__ import annotations

from atoll.attacks.poisoning.poison import Poison as Poison
from atoll.registry import Registry

POISON_REFERENCES: dict[str, str] = {
    name: f"atoll.attacks.poisoning.{place}"
    for name, place in {
        "label-flip": "example_poison:LabelFlip",
        "pixel-backdoor": "backdoors:PixelBackdoor",
        "model-replacement": "backdoors:ModelReplacement",
        "distributed-backdoor": "backdoors:DistributedBackdoor",
        "edge-case-backdoor": "edge_cases:EdgeCaseBackdoor",
        "sign-flip": "update_poison:SignFlip",
        "gaussian": "update_poison:GaussianUpdate",
        "alie": "collusion:ALIE",
        "ipm": "collusion:InnerProduct",
        "min-max": "collusion:MinMax",
        "min-sum": "collusion:MinSum",
        "fang-krum": "fang:FangKrum",
        "fang-trimmed-mean": "fang:FangTrimmedMean",
        "moment-scaling": "moments:MomentScaling",
    }.items()
}
POISONS: Registry[type[Poison]] = Registry("poisoning attack", POISON_REFERENCES)
