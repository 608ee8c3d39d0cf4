"""Kinds of names that experiment files can use.

The names themselves are in ``names.py``, whose imports a list of the kinds does not need.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Kind:
    """A kind of names.

    Attributes
    ----------
    about : str
        What its names are for, and the key that holds one.
    section : str
        The table that holds a name's own keys; empty if they have none.
    """

    about: str
    section: str = ""


KINDS = {
    "datasets": Kind("data sets: data.dataset", "data.options"),
    "models": Kind("models: model.name", "model"),
    "partitioners": Kind(
        "how examples are dealt to clients: data.partition.name", "data.partition"
    ),
    "strategies": Kind("what the server does: strategy.name", "strategy"),
    "mods": Kind("what clients do to messages, defenses among them: client.mods", "client.mods"),
    "personal": Kind("how a client's own model is made: client.personal.name", "client.personal"),
    "terms": Kind("what clients minimise beside the loss: client.objective", "client.objective"),
    "attacks": Kind(
        "reconstruction of clients' examples: atoll attack --attack, arena.attacks",
        "arena.attacks",
    ),
    "poisons": Kind("what poisoned clients do: poison.attack", "poison"),
    "generators": Kind("generators of images, for attacks that have a setting 'generator'"),
    "priors": Kind("priors of examples, for attacks that have a setting 'prior'"),
}


def kinds() -> list[tuple[str, str]]:
    """Return the kinds of names, and what each is for."""
    return [(name, kind.about) for name, kind in KINDS.items()]
