"""Checks of the order of defenses: pairs that cannot be combined."""

from __future__ import annotations

from collections.abc import Sequence

from atoll.attacks.defenses.base.defense import Defense
from atoll.attacks.defenses.dp_sgd import DPSGD
from atoll.attacks.defenses.precode import Precode
from atoll.clients.mods import KEY
from atoll.errors import InvalidExperimentError


def check_order(mods: Sequence[object]) -> None:
    """Refuse an order of mods that invalidates an epsilon, or makes a mod ineffective.

    DP-SGD takes each example's gradient from the loss. What a defense inside it does to the batch's
    gradient is not used; and mixed images are of two examples each, so that epsilon would not hold.
    Outside of it, a defense only sees what is private already.

    Parameters
    ----------
    mods : Sequence[object]
        The outermost first.

    Raises
    ------
    InvalidExperimentError
        Naming both.
    """
    is_inside = False
    for mod in mods:
        acts = isinstance(mod, Defense) and mod.acts_on == "step"
        if is_inside and acts and not isinstance(mod, Precode):
            name = getattr(mod, "name", type(mod).__name__)
            raise InvalidExperimentError(
                f"{KEY} has {name!r} after {DPSGD.name!r}: it would act inside of it, on what is "
                f"not used; expected {name!r} before it, or without it"
            )
        is_inside = is_inside or isinstance(mod, DPSGD)
