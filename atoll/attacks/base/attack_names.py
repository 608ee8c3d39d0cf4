"""The names of attacks, and those of them that are baselines."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from atoll.registry import Registry

if TYPE_CHECKING:
    from atoll.attacks.base.attack import Attack

_MATCHING = "atoll.attacks.methods.matching"
ATTACKS: Registry[type[Attack]] = Registry(
    "attack",
    {
        "random-image": "atoll.attacks.methods.baselines:RandomImage",
        "class-mean": "atoll.attacks.methods.baselines:ClassMean",
        "linear-layer": "atoll.attacks.methods.exact.linear_layer:LinearLayer",
        "spear": "atoll.attacks.methods.exact.spear.attack:SPEAR",
        "april": "atoll.attacks.methods.exact.april:APRIL",
        "imprint": "atoll.attacks.methods.exact.imprint_attack:Imprint",
        "loki": "atoll.attacks.methods.exact.loki:LOKI",
        "class-fishing": "atoll.attacks.methods.exact.class_fishing:ClassFishing",
        "feature-fishing": "atoll.attacks.methods.exact.feature_fishing:FeatureFishing",
        "r-gap": "atoll.attacks.methods.exact.rgap:RGAP",
        "dlg": "atoll.attacks.methods.matching.dlg:DLG",
        "idlg": "atoll.attacks.methods.matching.dlg:IDLG",
        "inverting-gradients": f"{_MATCHING}.inverting_gradients:InvertingGradients",
        "local-epochs": "atoll.attacks.methods.matching.local_epochs:LocalEpochs",
        "plug-and-play": "atoll.attacks.methods.matching.plug_and_play:PlugAndPlay",
        "guided-diffusion": "atoll.attacks.methods.generative.guided_diffusion:GuidedDiffusion",
        "gradinversion": "atoll.attacks.methods.matching.gradinversion:GradInversion",
        "rog": "atoll.attacks.methods.matching.rog:ROG",
        "gifd": "atoll.attacks.methods.generative.gifd:GIFD",
        "gias": "atoll.attacks.methods.generative.gias:GIAS",
        "ggl": "atoll.attacks.methods.generative.ggl:GGL",
        "generator-sample": "atoll.attacks.methods.generative.generator_sample:GeneratorSample",
        "marginal-sample": "atoll.attacks.methods.tables.marginals:MarginalSample",
        "marginal-mode": "atoll.attacks.methods.tables.marginals:MarginalMode",
        "tableak": "atoll.attacks.methods.tables.tableak:TabLeak",
        "dager": "atoll.attacks.methods.texts.dager:Dager",
        "embedding-rows": "atoll.attacks.methods.texts.embedding_rows:EmbeddingRows",
        "lamp": "atoll.attacks.methods.texts.lamp:Lamp",
    },
)

# Attacks whose results depend little or not at all on the update: what others are compared with.
BASELINES = frozenset(
    {"random-image", "class-mean", "generator-sample", "marginal-sample", "marginal-mode"}
)

# Attacks by the kind of examples that they reconstruct, where these are not images alone.
ON_KINDS: Mapping[str, tuple[str, ...]] = {
    "table": ("tableak", "spear", "marginal-sample", "marginal-mode"),
    "tokens": ("dager", "lamp", "embedding-rows", "marginal-sample", "marginal-mode"),
}
# Those of them that reconstruct images too.
ON_IMAGES_TOO = frozenset({"spear"})


def attacks_on(kind: str) -> tuple[str, ...]:
    """Return the attacks that reconstruct examples of a kind."""
    if kind in ON_KINDS:
        return ON_KINDS[kind]
    others = {name for names in ON_KINDS.values() for name in names} - ON_IMAGES_TOO
    return tuple(name for name in ATTACKS if name not in others)
