"""What an onlooker can make of clients' updates: attacks by name, on captures of real runs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from atoll.registry import Registry

if TYPE_CHECKING:
    from atoll.attacks.attack import Attack

ATTACKS: Registry[type[Attack]] = Registry(
    "attack",
    {
        "random-image": "atoll.attacks.floors:RandomImage",
        "class-mean": "atoll.attacks.floors:ClassMean",
        "linear-layer": "atoll.attacks.linear_layer:LinearLayer",
        "imprint": "atoll.attacks.imprint:Imprint",
        "r-gap": "atoll.attacks.rgap:RGAP",
        "dlg": "atoll.attacks.dlg:DLG",
        "idlg": "atoll.attacks.dlg:IDLG",
        "inverting-gradients": "atoll.attacks.inverting_gradients:InvertingGradients",
        "gradinversion": "atoll.attacks.gradinversion:GradInversion",
        "rog": "atoll.attacks.rog:ROG",
        "gifd": "atoll.attacks.gifd:GIFD",
        "gias": "atoll.attacks.gias:GIAS",
        "ggl": "atoll.attacks.ggl:GGL",
        "generator-sample": "atoll.attacks.generator_sample:GeneratorSample",
    },
)

# What comes out of them owes little or nothing to the update; others are held against it.
FLOORS = frozenset({"random-image", "class-mean", "generator-sample"})
